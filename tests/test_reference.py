"""The numpy reference against transformers, and against truths that hold for any Llama."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellama.backends import Backend, Batch, load_backend
from edgellama.backends.reference import attend, rms_norm, rope, silu
from edgellama.config import ModelConfig
from edgellama.errors import ContextFull, InvalidRequest
from edgellama.gguf import GGUFFile, TensorToWrite, write_gguf
from edgellama.quant import find_format
from edgellama.weights import load_weights

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Two float32 programs differ by the order of their sums, measured 1e-6 of the spread. Far out, one
# bit of a frequency is 20,000 * 6e-8 radians, and torch's float32 pow is off by one on some CPUs.
NEAR, FAR = 1e-5, 2e-4


def load_reference(path: Path, **options: Any) -> Backend:
    with GGUFFile(path) as file:
        config = ModelConfig.from_gguf(file)
        options = {"n_ctx": config.context_length, "n_sequences": 3} | options
        return load_backend("reference", config, load_weights(file, config), **options)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Iterator[Backend]:
    backend = load_reference(tiny_llama)
    yield backend
    backend.close()


@pytest.fixture(autouse=True)
def forget(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "model" in request.fixturenames:
        for sequence in range(3):
            request.getfixturevalue("model").drop(sequence)


# --- against transformers


def half_split_to_adjacent(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Hugging Face rotates rows (i, i + head_dim / 2) together, GGUF the adjacent (2i, 2i + 1)."""
    rows, cols = weight.shape
    return weight.reshape(n_heads, 2, -1, cols).swapaxes(1, 2).reshape(rows, cols)


def llama3_factors(theta: float, head_dim: int, factor: float) -> np.ndarray:
    """(head_dim / 2,) divisors of Llama 3.1's scaled rope: one for short waves, factor for long."""
    wavelength = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((8192 / wavelength - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def write_from_transformers(path: Path, model: Any) -> Path:
    """Write a LlamaForCausalLM as GGUF in F32."""
    c, f32 = model.config, find_format("F32")
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    tensors = []

    def add(name: str, values: np.ndarray) -> None:
        packed = f32.quantize(np.atleast_2d(values))
        tensors.append(TensorToWrite(name, values.shape, f32, lambda: iter([packed])))

    for key, tensor in model.state_dict().items():
        values, stem = tensor.numpy(), key.removesuffix(".weight")
        if stem == "lm_head" and c.tie_word_embeddings:
            continue
        prefix = ""
        if stem.startswith("model.layers."):
            _, _, layer, stem = stem.split(".", 3)
            prefix = f"blk.{layer}."
        if stem == "self_attn.q_proj":
            values = half_split_to_adjacent(values, c.num_attention_heads)
        if stem == "self_attn.k_proj":
            values = half_split_to_adjacent(values, c.num_key_value_heads)
        add(f"{prefix}{names[stem]}.weight", values)

    theta = c.rope_parameters["rope_theta"]
    if c.rope_parameters["rope_type"] == "llama3":
        add("rope_freqs.weight", llama3_factors(theta, c.head_dim, c.rope_parameters["factor"]))
    metadata = {
        "general.architecture": "llama",
        "llama.context_length": c.max_position_embeddings,
        "llama.embedding_length": c.hidden_size,
        "llama.block_count": c.num_hidden_layers,
        "llama.feed_forward_length": c.intermediate_size,
        "llama.attention.head_count": c.num_attention_heads,
        "llama.attention.head_count_kv": c.num_key_value_heads,
        "llama.attention.key_length": c.head_dim,
        "llama.attention.value_length": c.head_dim,
        "llama.attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "llama.rope.dimension_count": c.head_dim,
        "llama.rope.freq_base": theta,
    }
    write_gguf(path, metadata, tensors)
    return path


@pytest.mark.parametrize(
    ("shape", "rope_parameters"),
    [
        ({}, {"rope_type": "default", "rope_theta": 10000.0}),
        ({"num_key_value_heads": 4}, {"rope_type": "default", "rope_theta": 10000.0}),
        ({"num_key_value_heads": 1}, {"rope_type": "default", "rope_theta": 1000000.0}),
        ({"tie_word_embeddings": True}, {"rope_theta": 500000.0} | LLAMA3_SCALING),
        ({"head_dim": 32}, {"rope_theta": 500000.0} | LLAMA3_SCALING | {"factor": 32.0}),
        ({"head_dim": 64, "intermediate_size": 100}, {"rope_theta": 500000.0} | LLAMA3_SCALING),
    ],
    ids=["grouped", "every head", "one kv head", "tied", "wide heads", "wider heads"],
)
@pytest.mark.parametrize("start", [0, 20_000])
def test_logits_are_those_of_transformers(
    tmp_path: Path, shape: dict[str, Any], rope_parameters: dict[str, Any], start: int
) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `oracles`: torch")
    transformers = pytest.importorskip("transformers", reason="needs the extra `oracles`")
    options = {
        "hidden_size": 64,
        "intermediate_size": 224,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 97,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "initializer_range": 0.2,  # large enough for attention to choose and for rope to matter
        "rope_parameters": rope_parameters,
    }
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**options | shape, attn_implementation="eager")
    oracle = transformers.LlamaForCausalLM(config).eval()
    tokens = torch.randint(0, 97, (1, 48))
    with torch.no_grad():
        positions = torch.arange(start, start + 48)[None]
        expected = oracle(tokens, position_ids=positions).logits[0].numpy()

    backend = load_reference(write_from_transformers(tmp_path / "model.gguf", oracle))
    logits = backend.forward(Batch.of(tokens[0].numpy(), start=start, wanted="all"))

    spread = expected.max() - expected.min()
    assert np.abs(logits - expected).max() <= (FAR if start else NEAR) * spread


# --- truths of any Llama


def far_logits(path: Path, start: int = 20_000) -> np.ndarray:
    return load_reference(path, n_ctx=2**20).forward(
        Batch.of([*range(40)], start=start, wanted="all")
    )


def test_scaled_rope_changes_far_logits_by_more_than_any_tolerance_here(
    tmp_path: Path, write_tiny_llama: Callable[..., Path]
) -> None:
    shape = {"rope_theta": 500000.0, "head_dim": 32}
    plain = far_logits(write_tiny_llama(tmp_path / "plain.gguf", **shape))
    scaled = far_logits(write_tiny_llama(tmp_path / "scaled.gguf", rope_scaled=True, **shape))
    assert np.abs(plain - scaled).max() > 10 * FAR * np.ptp(plain)


def test_linear_scaling_by_four_makes_every_fourth_position_the_next(
    tmp_path: Path, write_tiny_llama: Callable[..., Path]
) -> None:
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    plain = load_reference(write_tiny_llama(tmp_path / "plain.gguf"))
    scaled = load_reference(write_tiny_llama(tmp_path / "scaled.gguf", metadata=linear))
    tokens = Batch.of([1, 2, 3, 4], wanted="all")
    stretched = Batch(tokens.tokens, 4 * tokens.positions, tokens.sequences, tokens.wanted)
    # Dividing by four is exact in float32, and so the logits are the same to the bit.
    np.testing.assert_array_equal(scaled.forward(stretched), plain.forward(tokens))


def test_logits_of_a_model_whose_blocks_add_nothing_are_the_normed_embedding(
    tmp_path: Path, write_tiny_llama: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with GGUFFile(write_tiny_llama(tmp_path / "m.gguf", n_layers=1)) as file:
        config = ModelConfig.from_gguf(file)
        weights = load_weights(file, config)
    backend = load_backend("reference", config, weights, n_ctx=8)
    backend._layers[0]["attn_output"][:] = 0  # type: ignore[attr-defined]
    backend._layers[0]["ffn_down"][:] = 0  # type: ignore[attr-defined]
    logits = backend.forward(Batch.of([5, 7], wanted="all"))
    table = weights.token_embd.dequantize().astype(np.float64)
    x = table[[5, 7]]
    normed = x / np.sqrt((x**2).mean(1, keepdims=True) + config.norm_eps) * weights.output_norm
    np.testing.assert_allclose(logits, normed @ table.T, rtol=0, atol=1e-5)  # 64 float32 products


def test_any_chunking_gives_the_logits_of_one_prefill(model: Backend) -> None:
    tokens = np.random.default_rng(1).integers(0, model.config.vocab_size, 300)  # more than a chunk
    whole = model.forward(Batch.of(tokens, wanted="all"))
    parts, at = [], 0
    for size in (1, 2, 100, 1, 196):
        parts.append(
            model.forward(Batch.of(tokens[at : at + size], sequence=1, start=at, wanted="all"))
        )
        at += size
    # Sums in another order: a few float32 roundings of logits around one.
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=2e-5)


def test_interleaved_sequences_do_not_see_each_other(model: Backend) -> None:
    a, b = np.arange(6), np.arange(50, 56)
    alone = [model.forward(Batch.of(tokens, wanted="all")) for tokens in (a,)]
    model.drop(0)
    alone.append(model.forward(Batch.of(b, wanted="all")))
    model.drop(0)
    mixed = Batch(
        tokens=np.stack([a, b], axis=1).reshape(-1).astype(np.int32),
        positions=np.repeat(np.arange(6), 2).astype(np.int32),
        sequences=np.tile([0, 2], 6).astype(np.int32),
        wanted=np.ones(12, bool),
    )
    together = model.forward(mixed)
    np.testing.assert_allclose(together[0::2], alone[0], rtol=0, atol=2e-5)
    np.testing.assert_allclose(together[1::2], alone[1], rtol=0, atol=2e-5)


def test_rewind_gives_the_same_logits(model: Backend) -> None:
    model.forward(Batch.of([1, 2, 3]))
    first = model.forward(Batch.of([4], start=3))
    model.forward(Batch.of([9, 9], start=4))
    model.rewind(0, 3)
    np.testing.assert_array_equal(model.forward(Batch.of([4], start=3)), first)


def test_a_copied_prefix_continues_as_the_original_would(model: Backend) -> None:
    model.forward(Batch.of([1, 2, 3, 9, 9]))
    model.copy(0, 1, 3)
    continued = model.forward(Batch.of([4], sequence=1, start=3))
    model.rewind(0, 3)
    np.testing.assert_array_equal(model.forward(Batch.of([4], start=3)), continued)


def test_only_wanted_rows_come_back(model: Backend) -> None:
    n = model.config.vocab_size
    assert model.forward(Batch.of([1, 2, 3])).shape == (1, n)
    assert model.forward(Batch.of([1, 2, 3], start=3, wanted="none")).shape == (0, n)
    assert model.forward(Batch.of([1, 2, 3], start=6, wanted="all")).shape == (3, n)
    assert model.forward(Batch.of([], start=9)).shape == (0, n)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (Batch.of([10**6]), "token id 1000000"),
        (Batch.of([-1]), "token id -1"),
        (Batch.of([1], sequence=3), "sequence 3"),
        (Batch.of([1], start=-1), "position -1"),
    ],
)
def test_rows_out_of_range_are_refused(model: Backend, batch: Batch, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        model.forward(batch)


def test_ids_that_are_not_whole_numbers_are_refused() -> None:
    for tokens in ([1.5], [2**40]):
        with pytest.raises(InvalidRequest, match="whole numbers"):
            Batch.of(tokens)


def test_positions_must_ascend(model: Backend) -> None:
    model.forward(Batch.of([1, 2]))
    with pytest.raises(InvalidRequest, match="do not ascend"):
        model.forward(Batch.of([3], start=1))


def test_a_full_context_is_an_error_and_remembers_nothing(tiny_llama: Path) -> None:
    backend = load_reference(tiny_llama, n_ctx=4)
    with pytest.raises(ContextFull, match="position 4 does not fit"):
        backend.forward(Batch.of([1, 2, 3, 4, 5]))
    fresh = load_reference(tiny_llama, n_ctx=4)
    tokens = Batch.of([1, 2, 3, 4])
    np.testing.assert_array_equal(backend.forward(tokens), fresh.forward(tokens))


def test_an_unknown_backend_lists_the_known_ones(tiny_llama: Path) -> None:
    with GGUFFile(tiny_llama) as file:
        config = ModelConfig.from_gguf(file)
        weights = load_weights(file, config)
    with pytest.raises(InvalidRequest, match="'gpu' is unknown; known are cpu, reference"):
        load_backend("gpu", config, weights, n_ctx=8)


# --- its parts


def test_rms_norm_brings_rows_to_a_root_mean_square_of_one() -> None:
    x = np.random.default_rng(0).normal(0, 7, (5, 64)).astype(np.float32)
    y = rms_norm(x, np.full(64, 2, np.float32), 1e-6)
    np.testing.assert_allclose(np.sqrt((y**2).mean(1)), 2, rtol=1e-6)


def test_rope_turns_pairs_so_that_only_distance_matters() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.normal(0, 1, (2, 1, 1, 8)).astype(np.float32)
    frequencies = np.array([1, 0.5, 0.25], np.float32)  # the last pair is not rotated

    def score(m: int, n: int) -> float:
        return float((rope(q, m * frequencies[None]) * rope(k, n * frequencies[None])).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-5)  # float32 angles around 100
    assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-2)
    np.testing.assert_array_equal(rope(q, frequencies[None])[..., 6:], q[..., 6:])


def test_rope_rotates_the_first_pair_by_its_angle() -> None:
    x = np.array([[[1, 0, 0, 1]]], np.float32)
    turned = rope(x, np.array([[np.pi / 2, np.pi]], np.float32))
    np.testing.assert_allclose(turned, [[[0, 1, 0, -1]]], atol=1e-6)


def test_attention_with_equal_scores_is_the_mean_of_the_visible_values() -> None:
    q = np.zeros((2, 4, 8), np.float32)
    keys, values = np.random.default_rng(0).normal(0, 1, (2, 3, 2, 8)).astype(np.float32)
    visible = np.array([[True, True, False], [True, True, True]])
    out = attend(q, keys, values, visible)
    for head in range(4):
        np.testing.assert_allclose(out[0, head], values[:2, head // 2].mean(0), atol=1e-6)
        np.testing.assert_allclose(out[1, head], values[:, head // 2].mean(0), atol=1e-6)


def test_silu_is_finite_far_out() -> None:
    x = np.array([-1e4, -1, 0, 1, 1e4], np.float32)
    np.testing.assert_allclose(silu(x), [0, -0.26894143, 0, 0.7310586, 1e4], rtol=1e-6)
