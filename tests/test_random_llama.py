"""Random weights in a Llama's shape: what `edgellama bench --shape` and the benchmarks run on."""

from pathlib import Path

import numpy as np
import pytest

from edgellama.backends import Batch, load_backend
from edgellama.config import ModelConfig
from edgellama.gguf import GGUFFile
from edgellama.quant import FORMATS, Format
from edgellama.random_llama import MIXES, SHAPES, TYPES, Shape, random_rows, write_random_llama
from edgellama.weights import load_weights

DIM, HIDDEN = 256, 512  # what the largest blocks divide
SMALL = Shape(DIM, 2, 4, 2, 64, HIDDEN, tied=True, rope_factor=8, vocab_size=1024)
UNTIED = Shape(DIM, 8, 4, 2, 64, HIDDEN, tied=False, rope_factor=1, vocab_size=1024)


def formats_in(path: Path) -> dict[str, str]:
    with GGUFFile(path) as file:
        return {name: tensor.format.name for name, tensor in file.tensors.items()}


@pytest.mark.parametrize("type_name", TYPES)
def test_every_type_runs_and_keeps_its_activations_of_one_size(
    tmp_path: Path, type_name: str
) -> None:
    path = tmp_path / "random.gguf"
    write_random_llama(path, SMALL, type_name)
    with GGUFFile(path) as file:
        config = ModelConfig.from_gguf(file)
        backend = load_backend("cpu", config, load_weights(file, config), n_ctx=32, n_threads=1)
        logits = backend.forward(Batch.of(np.arange(20, dtype=np.int32)))
        backend.close()
    # a normed vector of variance 1 times rows of variance 1 / dim
    assert 0.7 < logits.std() < 1.4


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
def test_rows_have_mean_0_and_variance_1_over_their_columns(fmt: Format) -> None:
    packed = random_rows(np.random.default_rng(0), 300, HIDDEN, fmt)
    weights = fmt.dequantize(packed) * np.sqrt(HIDDEN)
    assert weights.shape == (300, HIDDEN)
    if fmt.can_quantize:
        assert abs(weights.mean()) < 0.02
        assert 0.95 < weights.std() < 1.02  # least squares shrinks: by 4 % with codes of two bits
    else:  # any block goes whose own rms is between 0.5 and 2 and whose mean is small beside it
        assert abs(weights.mean()) < 0.1
        assert 0.7 < weights.std() < 1.4
    assert len(np.unique(packed, axis=0)) == 300


def test_the_output_matrix_is_as_in_usual_files_unless_named(tmp_path: Path) -> None:
    path = tmp_path / "random.gguf"
    write_random_llama(path, UNTIED, "q4_0")
    formats = formats_in(path)
    assert (formats["output.weight"], formats["token_embd.weight"]) == ("Q6_K", "Q4_0")
    write_random_llama(path, UNTIED, "q4_0", output_type="q8_0")
    assert formats_in(path)["output.weight"] == "Q8_0"
    write_random_llama(path, SMALL, "q4_0")
    assert formats_in(path)["token_embd.weight"] == "Q6_K"  # which makes the logits, being tied
    write_random_llama(path, UNTIED, "f16")
    assert formats_in(path)["output.weight"] == "F16"


@pytest.mark.parametrize("mix", [mix for mix in MIXES if mix in TYPES])
def test_a_mix_gives_half_of_two_matrices_more_bits(tmp_path: Path, mix: str) -> None:
    path = tmp_path / "random.gguf"
    write_random_llama(path, UNTIED, mix)
    formats = formats_in(path)
    # 8 layers: the first, the last, and of those between the third and the sixth
    for layer in range(8):
        more = layer in (0, 3, 6, 7)
        for name in ("attn_v", "ffn_down"):
            assert formats[f"blk.{layer}.{name}.weight"] == MIXES[mix][more]
        assert formats[f"blk.{layer}.attn_q.weight"] == MIXES[mix][0]


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_llama(tmp_path / name, SMALL, "q4_0", seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_a_type_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no random weights in 'q9'; known are F32"):
        write_random_llama(tmp_path / "x.gguf", SMALL, "q9")
    assert list(tmp_path.iterdir()) == []


def test_the_shapes_have_the_published_number_of_parameters() -> None:
    published = {"llama-3.2-1b": 1.24e9, "llama-3.2-3b": 3.21e9, "llama-3.1-8b": 8.03e9}
    for name, count in published.items():
        s = SHAPES[name]
        layer = s.dim * (s.n_heads * 2 + s.n_kv_heads * 2) * s.head_dim + 3 * s.dim * s.hidden_dim
        embeddings = s.vocab_size * s.dim * (1 if s.tied else 2)
        assert abs(s.n_layers * layer + embeddings - count) < 0.005 * count
