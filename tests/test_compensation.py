"""A model whose matrices make up for each other: against plain quantizing, and algebra."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellama.backends.reference import dequantize_layer, rms_norm
from edgellama.calibration import Reading
from edgellama.compensation import Compensation
from edgellama.config import ModelConfig
from edgellama.errors import ModelFormatError
from edgellama.gguf import GGUFFile
from edgellama.llama import shipped_model
from edgellama.quant import Format, find_format
from edgellama.text_chunks import cut_text
from edgellama.tokenizer import load_tokenizer
from edgellama.weights import ModelWeights, load_weights

PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
STORY = """\
Once there lived a shy bear whose name was Lulu. One day, Lulu and Rosa made a plan: they would go \
to the lake to fly a kite. But Rosa was ill and had to stay at home. "Do not be sad," said Lulu, \
and gave her a yellow hat. Then the uncle brought them some bread. Soon Rosa was glad again.
"""


def texts(n_chunks: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 250, (n_chunks, 64)).astype(np.int32)


def load(path: Path) -> tuple[ModelConfig, ModelWeights]:
    with GGUFFile(path) as file:
        config = ModelConfig.from_gguf(file)
        return config, load_weights(file, config)


def matrices(weights: ModelWeights) -> list[str]:
    names = [weights.token_embd.name]
    names += [getattr(layer, part).name for layer in weights.layers for part in PARTS]
    return names if weights.output is weights.token_embd else [*names, weights.output.name]


def compensated(path: Path, fmt: Format, chunks: np.ndarray) -> dict[str, np.ndarray]:
    config, weights = load(path)
    names = matrices(weights)
    compensation = Compensation(config, weights, dict.fromkeys(names, fmt), chunks)
    return {name: fmt.dequantize(compensation.packed(name)) for name in names}


def rounded(path: Path, fmt: Format) -> dict[str, np.ndarray]:
    _, weights = load(path)
    all_matrices = [weights.token_embd, weights.output]
    all_matrices += [getattr(layer, part) for layer in weights.layers for part in PARTS]
    return {m.name: fmt.dequantize(fmt.quantize(m.dequantize())) for m in all_matrices}


def logits(path: Path, changed: dict[str, np.ndarray], chunks: np.ndarray) -> np.ndarray:
    """Of the model with other matrices, by the reference's layers."""
    config, weights = load(path)
    reading = Reading(config, weights, chunks)
    embedding = changed.get(weights.token_embd.name, weights.token_embd.dequantize())
    reading.x = embedding[chunks]
    for i, layer in enumerate(weights.layers):
        w = dequantize_layer(layer)
        w |= {p: changed[f"blk.{i}.{p}.weight"] for p in PARTS if f"blk.{i}.{p}.weight" in changed}
        reading.pass_layer(i, w, lambda names, x: None)
    output = changed.get(weights.output.name, weights.output.dequantize())
    return rms_norm(reading.x, weights.output_norm, config.norm_eps) @ output.T


def error(path: Path, changed: dict[str, np.ndarray], chunks: np.ndarray) -> float:
    return float(np.square(logits(path, changed, chunks) - logits(path, {}, chunks)).mean())


@pytest.mark.parametrize("tied", [True, False])
def test_logits_on_other_text_stay_nearer_than_with_rounding(
    tmp_path: Path, write_tiny_llama: Callable[..., Path], tied: bool
) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf", tied=tied)
    fmt = find_format("Q4_0")
    other = texts(8, seed=1)
    plain = error(path, rounded(path, fmt), other)
    # Random matrices have inputs that hardly go together, so little can be made up for.
    assert error(path, compensated(path, fmt, texts(32)), other) < 0.8 * plain


def test_a_short_text_does_no_harm(tiny_llama: Path) -> None:
    """64 tokens say nothing about 96 channels: what was fitted to them is not believed."""
    fmt = find_format("Q4_0")
    other = texts(8, seed=1)
    plain = error(tiny_llama, rounded(tiny_llama, fmt), other)
    for n_chunks in (1, 2):
        found = compensated(tiny_llama, fmt, texts(n_chunks))
        assert error(tiny_llama, found, other) < 1.1 * plain


def test_what_one_matrix_loses_the_next_writers_mend() -> None:
    """With one ffn_up rounded to four bits, the matrices behind it change to make up for it."""
    with shipped_model() as path:
        config, weights = load(path)
        with GGUFFile(path) as file:
            chunks = cut_text(load_tokenizer(file.metadata), STORY * 12, 64)
        spoiled = "blk.1.ffn_up.weight"
        formats = dict.fromkeys(matrices(weights), find_format("F32"))
        formats[spoiled] = find_format("Q4_0")
        formats["blk.1.ffn_down.weight"] = find_format("Q5_0")  # not what it is: that is kept
        compensation = Compensation(config, weights, formats, chunks)
        made = {n: f.dequantize(compensation.packed(n)) for n, f in formats.items()}
        only = error(path, {spoiled: made[spoiled]}, chunks)
        assert error(path, made, chunks) < 0.5 * only


def test_exact_formats_leave_the_model_as_it_was(tiny_llama: Path) -> None:
    _, weights = load(tiny_llama)
    found = compensated(tiny_llama, find_format("F32"), texts(2))
    np.testing.assert_array_equal(found["token_embd.weight"], weights.token_embd.dequantize())
    np.testing.assert_array_equal(
        found["blk.1.ffn_down.weight"], weights.layers[1].ffn_down.dequantize()
    )


def test_matrices_come_in_any_order_and_the_same_again(tiny_llama: Path) -> None:
    config, weights = load(tiny_llama)
    fmt, chunks = find_format("Q4_0"), texts(4)
    forward = compensated(tiny_llama, fmt, chunks)
    names = matrices(weights)
    compensation = Compensation(config, weights, dict.fromkeys(names, fmt), chunks)
    for name in reversed(names):
        np.testing.assert_array_equal(fmt.dequantize(compensation.packed(name)), forward[name])


def test_a_model_that_computes_no_numbers_is_named(
    tmp_path: Path, write_tiny_llama: Callable[..., Path]
) -> None:
    path = write_tiny_llama(tmp_path / "broken.gguf", tied=False)
    with GGUFFile(path) as file:
        info = file.tensors["blk.1.ffn_up.weight"]
    with open(path, "r+b") as broken:
        broken.seek(info.offset)
        broken.write(np.full(8, np.nan, np.float32).tobytes())
    with pytest.raises(ModelFormatError, match=r"blk\.1\.ffn_up\.weight"):
        compensated(path, find_format("Q4_0"), texts(2))
