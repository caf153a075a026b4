"""ModelConfig and ModelWeights from GGUF: what is read, and what is refused by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellama.config import ModelConfig
from edgellama.errors import ModelFormatError
from edgellama.gguf import GGUFFile, TensorToWrite, write_gguf
from edgellama.quant import dequantize, find_format
from edgellama.weights import Matrix, ModelWeights, load_weights, rope_frequencies


@pytest.fixture
def read(tmp_path: Path, write_tiny_llama: Callable[..., Path]) -> Callable[..., ModelConfig]:
    """read(metadata={...}, ...) -> the config of a tiny model with these keys changed."""

    def read(**options: Any) -> ModelConfig:
        with GGUFFile(write_tiny_llama(tmp_path / "m.gguf", **options)) as file:
            return ModelConfig.from_gguf(file)

    return read


def load(path: Path) -> tuple[ModelConfig, ModelWeights]:
    with GGUFFile(path) as file:
        config = ModelConfig.from_gguf(file)
        return config, load_weights(file, config)


# --- config


def test_every_field_comes_from_its_key(read: Callable[..., ModelConfig]) -> None:
    shape = {
        "name": "seven",
        "dim": 32,
        "n_layers": 3,
        "n_heads": 6,
        "n_kv_heads": 2,
        "head_dim": 8,
        "hidden_dim": 64,
        "vocab_size": 32,
        "context_length": 77,
        "norm_eps": 0.0625,
        "rope_theta": 500000.0,
        "rope_dim": 4,
    }
    tokens = {"tokenizer.ggml.tokens": [str(i) for i in range(32)]}
    config = read(metadata=tokens, **shape)
    assert config == ModelConfig(**shape)  # type: ignore[arg-type]


def test_what_a_file_may_leave_out_has_its_default(read: Callable[..., ModelConfig]) -> None:
    left_out = [
        "general.name",
        "llama.vocab_size",
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
        "llama.attention.value_length",
        "llama.rope.dimension_count",
        "llama.rope.freq_base",
    ]
    config = read(n_kv_heads=4, metadata=dict.fromkeys(left_out))
    assert config.name == "m"  # of m.gguf
    assert config.n_kv_heads == config.n_heads == 4
    assert config.head_dim == config.rope_dim == 16
    assert config.rope_theta == 10000.0


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("general.architecture", "qwen2", "architecture 'qwen2'; edgellama runs the Llama"),
        ("llama.embedding_length", None, "key llama.embedding_length is missing"),
        ("llama.embedding_length", 0, r"embedding_length is 0, expected 1\.\."),
        ("llama.embedding_length", "64", "is of type str, expected int"),
        ("llama.embedding_length", True, "is of type bool, expected int"),
        ("llama.block_count", 2**31, "block_count is 2,147,483,648"),
        ("llama.feed_forward_length", np.array([96, 96], np.int32), "is of type ndarray"),
        ("llama.attention.head_count", 0, "head_count is 0"),
        ("llama.attention.head_count_kv", 3, "head_count_kv 3 does not divide"),
        ("llama.attention.head_count_kv", 8, r"head_count_kv is 8, expected 1\.\.4"),
        ("llama.attention.value_length", 8, "key_length 16 and value_length 8 differ"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "rms_epsilon is nan"),
        ("llama.attention.layer_norm_rms_epsilon", 0.0, "rms_epsilon is 0, expected more than 0"),
        ("llama.rope.freq_base", float("inf"), "freq_base is inf"),
        ("llama.rope.freq_base", 0.0, "freq_base is 0"),
        ("llama.rope.dimension_count", 5, "dimension_count is 5, an even number"),
        ("llama.rope.dimension_count", 18, r"dimension_count is 18, expected 1\.\.16"),
        (
            "llama.rope.scaling.type",
            "yarn",
            "scaling.type is 'yarn'; known are 'none' and 'linear'",
        ),
        ("llama.rope.scaling.type", "linear", "rope.scaling.factor is missing"),
        ("llama.context_length", 2**25, "context_length is 33,554,432"),
        ("llama.vocab_size", 7, "llama.vocab_size says 7"),
        ("tokenizer.ggml.tokens", ["one"], "tokenizer.ggml.tokens has 1 entries"),
        ("tokenizer.ggml.bos_token_id", 10**6, "bos_token_id is 1000000, outside the vocabulary"),
        ("tokenizer.ggml.eos_token_id", -1, "eos_token_id is -1, outside the vocabulary"),
        ("llama.expert_count", 8, "expert_count is 8; models that need it"),
        ("llama.expert_count", np.array([8, 8], np.int32), "expert_count is an array of 2; models"),
        ("llama.attention.causal", False, "causal is False; models that need it"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(
    read: Callable[..., ModelConfig], key: str, value: Any, words: str
) -> None:
    with pytest.raises(ModelFormatError, match=words):
        read(metadata={key: value})


def test_heads_that_do_not_divide_the_width_need_their_own_length(
    read: Callable[..., ModelConfig],
) -> None:
    lengths = dict.fromkeys(["llama.attention.key_length", "llama.attention.value_length"])
    with pytest.raises(ModelFormatError, match=r"does not divide llama\.embedding_length 64"):
        read(n_heads=6, metadata=lengths | {"llama.rope.dimension_count": None})


def test_a_name_cannot_write_to_the_terminal(read: Callable[..., ModelConfig]) -> None:
    assert read(metadata={"general.name": "a\x1b[2Jb\n" + "c" * 999}).name[:6] == "a[2Jbc"


def test_linear_scaling_is_read(read: Callable[..., ModelConfig]) -> None:
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert read(metadata=linear).rope_scale == 4


# --- weights


@pytest.mark.parametrize("format", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_weights_are_views_with_the_shapes_of_the_model(
    tmp_path: Path, write_tiny_llama: Callable[..., Path], format: str
) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf", format=format, tied=False)
    config, weights = load(path)
    assert len(weights.layers) == 2
    expected = {
        "attn_q": (64, 64),
        "attn_k": (32, 64),
        "attn_v": (32, 64),
        "attn_output": (64, 64),
        "ffn_gate": (96, 64),
        "ffn_up": (96, 64),
        "ffn_down": (64, 96),
    }
    for i, layer in enumerate(weights.layers):
        for name, shape in expected.items():
            matrix: Matrix = getattr(layer, name)
            assert (matrix.rows, matrix.cols) == matrix.dequantize().shape == shape
            assert matrix.name == f"blk.{i}.{name}.weight"
            assert not matrix.data.flags.writeable
        assert layer.attn_norm.shape == layer.ffn_norm.shape == (64,)
        assert layer.attn_norm.dtype == np.float32
    assert weights.output.name == "output.weight"
    with GGUFFile(path) as file:
        np.testing.assert_array_equal(
            weights.layers[1].attn_k.dequantize(),
            dequantize(file.data("blk.1.attn_k.weight"), format),
        )
    np.testing.assert_array_equal(weights.rope_factors, np.ones(config.rope_dim // 2))


def test_a_tied_model_has_its_embedding_for_output(tiny_llama: Path) -> None:
    _, weights = load(tiny_llama)
    assert weights.output is weights.token_embd


def test_rope_factors_are_read_and_multiplied_by_the_linear_scale(
    tmp_path: Path, write_tiny_llama: Callable[..., Path]
) -> None:
    shape = {"head_dim": 64, "rope_theta": 500000.0}
    _, plain = load(write_tiny_llama(tmp_path / "m.gguf", rope_scaled=True, **shape))
    # The published divisors of Llama 3.2 1B: ones, four in between, then 32.
    np.testing.assert_allclose(plain.rope_factors[:15], 1)
    np.testing.assert_allclose(
        plain.rope_factors[15:19], [1.651329, 3.292263, 9.66673, 32], rtol=1e-6
    )
    np.testing.assert_allclose(plain.rope_factors[18:], 32)
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    path = write_tiny_llama(tmp_path / "n.gguf", rope_scaled=True, metadata=linear, **shape)
    np.testing.assert_array_equal(load(path)[1].rope_factors, 2 * plain.rope_factors)


def test_rope_frequencies_fall_from_one_to_nearly_one_over_theta(
    tiny_shape: Callable[..., ModelConfig],
) -> None:
    config = tiny_shape(head_dim=128, rope_theta=500000.0)
    frequencies = rope_frequencies(config, np.ones(64, np.float32))
    exact = 500000.0 ** (-np.arange(64) / 64)
    assert frequencies.dtype == np.float32
    np.testing.assert_allclose(frequencies, exact, rtol=1.2e-6)  # float32 exponents times ln theta
    assert frequencies[0] == 1


def rewrite(path: Path, change: Callable[[dict[str, TensorToWrite]], None]) -> Path:
    """Copy a file with its tensors changed."""
    with GGUFFile(path) as file:
        tensors = {
            name: TensorToWrite(
                name, info.shape, info.format, lambda name=name: iter([file.data(name)])
            )
            for name, info in file.tensors.items()
        }
        change(tensors)
        target = path.with_name("changed.gguf")
        write_gguf(target, file.metadata, list(tensors.values()))  # type: ignore[arg-type]
    return target


def zeros(name: str, *shape: int, value: float = 0) -> TensorToWrite:
    rows = np.full(shape, value, np.float32).reshape(-1, shape[-1]).view(np.uint8)
    return TensorToWrite(name, shape, find_format("F32"), lambda: iter([rows]))


def test_every_tensor_is_missed_by_name(
    tmp_path: Path, write_tiny_llama: Callable[..., Path]
) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf", n_layers=1)
    with GGUFFile(path) as file:
        names = list(file.tensors)
    for name in names:
        with pytest.raises(ModelFormatError, match=f"{name} is missing"):
            load(rewrite(path, lambda tensors, name=name: tensors.pop(name)))  # type: ignore[misc]


def test_the_first_five_wrong_tensors_are_listed(
    tmp_path: Path, write_tiny_llama: Callable[..., Path]
) -> None:
    def change(tensors: dict[str, TensorToWrite]) -> None:
        for name in list(tensors):
            if name.startswith("blk.1"):
                del tensors[name]

    with pytest.raises(ModelFormatError) as caught:
        load(rewrite(write_tiny_llama(tmp_path / "m.gguf"), change))
    assert str(caught.value).count("is missing") == 5
    assert str(caught.value).endswith("; and 4 more")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (zeros("blk.0.attn_k.weight", 64, 64), r"attn_k.weight is \(64, 64\), expected \(32, 64\)"),
        (zeros("output_norm.weight", 32), r"output_norm.weight is \(32,\), expected \(64,\)"),
        (zeros("blk.0.attn_q.bias", 64), "'blk.0.attn_q.bias' is not a tensor of a Llama"),
        (zeros("rope_freqs.weight", 8), r"rope_freqs.weight holds factors below 0.000001"),
        (zeros("rope_freqs.weight", 4, value=1), r"rope_freqs.weight is \(4,\), expected \(8,\)"),
        (zeros("output_norm.weight", 64, value=np.nan), "output_norm.weight holds values that"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(
    tmp_path: Path, write_tiny_llama: Callable[..., Path], tensor: TensorToWrite, words: str
) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(ModelFormatError, match=words):
        load(rewrite(path, lambda tensors: tensors.update({tensor.name: tensor})))


def test_a_file_without_an_embedding_has_no_vocabulary(
    tmp_path: Path, write_tiny_llama: Callable[..., Path]
) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf")
    with pytest.raises(ModelFormatError, match=r"token_embd\.weight is missing"):
        load(rewrite(path, lambda tensors: tensors.pop("token_embd.weight")))  # type: ignore[arg-type, return-value]
