"""A GGUF with the exact shape of a published Llama and random weights, to measure speed with.

Speed depends on shapes and formats, not on what the weights say, so a benchmark needs no download.
The file is whole: metadata, scaled rope, and a synthetic byte-level BPE vocabulary of the true
size, so that any GGUF runtime loads it. Weights are drawn straight in the block format, scaled so
that every product keeps unit variance and activations stay finite through all layers.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gguf import TensorToWrite, write_gguf
from .quant import Format, find_format


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that params.json gives, and the factor of the scaled rope (1: plain)."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    tied: bool
    rope_factor: float
    vocab_size: int = 128256
    rope_theta: float = 500000.0
    context_length: int = 131072


SHAPES = {
    "llama-3.2-1b": Shape(2048, 16, 32, 8, 64, 8192, tied=True, rope_factor=32),
    "llama-3.2-3b": Shape(3072, 28, 24, 8, 128, 8192, tied=True, rope_factor=32),
    "llama-3.1-8b": Shape(4096, 32, 32, 8, 128, 14336, tied=False, rope_factor=8),
}
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # general.file_type of GGUF
ROWS_AT_ONCE = 1024


def write_random_llama(
    path: Path,
    shape: Shape,
    type_name: str,
    *,
    output_type: str | None = None,
    name: str = "random weights",
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write `shape` with every matrix in format `type_name`, the output matrix in `output_type`.

    progress is called with the number of bytes that have just been written. Raises what write_gguf
    raises.
    """
    matrix = find_format(type_name)
    output = find_format(output_type or type_name)
    metadata = {"general.name": name} | _model_metadata(shape, matrix.name)
    metadata |= _vocabulary(shape.vocab_size)
    write_gguf(path, metadata, list(_tensors(shape, matrix, output, seed)), progress=progress)


def _model_metadata(shape: Shape, type_name: str) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.file_type": np.uint32(FILE_TYPES[type_name]),
        "general.quantization_version": np.uint32(2),
        "llama.vocab_size": np.uint32(shape.vocab_size),
        "llama.context_length": np.uint32(shape.context_length),
        "llama.embedding_length": np.uint32(shape.dim),
        "llama.block_count": np.uint32(shape.n_layers),
        "llama.feed_forward_length": np.uint32(shape.hidden_dim),
        "llama.attention.head_count": np.uint32(shape.n_heads),
        "llama.attention.head_count_kv": np.uint32(shape.n_kv_heads),
        "llama.attention.key_length": np.uint32(shape.head_dim),
        "llama.attention.value_length": np.uint32(shape.head_dim),
        "llama.attention.layer_norm_rms_epsilon": np.float32(1e-5),
        "llama.rope.dimension_count": np.uint32(shape.head_dim),
        "llama.rope.freq_base": np.float32(shape.rope_theta),
    }


def _vocabulary(size: int) -> dict[str, Any]:
    """A byte-level BPE of `size` tokens: bytes, then all strings of 2, 3, 4 letters in order."""
    alphabet = _byte_alphabet()
    letters = [alphabet[ord(c)] for c in " abcdefghijklmnopqrstuvwxyz"]
    n_merges = size - len(alphabet) - 256
    words = itertools.chain.from_iterable(itertools.product(letters, repeat=n) for n in (2, 3, 4))
    merged = ["".join(word) for word in itertools.islice(words, n_merges)]
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    special += [f"<|reserved_special_token_{i}|>" for i in range(7)] + ["<|eot_id|>"]
    special += [f"<|reserved_special_token_{i}|>" for i in range(7, 253)]
    first_special = size - 256
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": list(alphabet) + merged + special,
        "tokenizer.ggml.token_type": np.array([1] * first_special + [3] * 256, np.int32),
        "tokenizer.ggml.merges": [f"{word[:-1]} {word[-1]}" for word in merged],
        "tokenizer.ggml.bos_token_id": np.uint32(first_special),
        "tokenizer.ggml.eos_token_id": np.uint32(first_special + 9),
    }


def _byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte value."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = itertools.count(256)
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def _tensors(shape: Shape, matrix: Format, output: Format, seed: int) -> Iterator[TensorToWrite]:
    s = shape
    q_dim, kv_dim = s.n_heads * s.head_dim, s.n_kv_heads * s.head_dim
    matrices = {
        "attn_q": (q_dim, s.dim),
        "attn_k": (kv_dim, s.dim),
        "attn_v": (kv_dim, s.dim),
        "attn_output": (s.dim, q_dim),
        "ffn_gate": (s.hidden_dim, s.dim),
        "ffn_up": (s.hidden_dim, s.dim),
        "ffn_down": (s.dim, s.hidden_dim),
    }
    seeds = itertools.count(seed)
    yield _matrix(
        "token_embd.weight", (s.vocab_size, s.dim), output if s.tied else matrix, next(seeds)
    )
    if s.rope_factor != 1:
        yield _vector("rope_freqs.weight", _rope_factors(s))
    for layer in range(s.n_layers):
        yield _vector(f"blk.{layer}.attn_norm.weight", np.ones(s.dim, np.float32))
        yield _vector(f"blk.{layer}.ffn_norm.weight", np.ones(s.dim, np.float32))
        for name, size in matrices.items():
            yield _matrix(f"blk.{layer}.{name}.weight", size, matrix, next(seeds))
    yield _vector("output_norm.weight", np.ones(s.dim, np.float32))
    if not s.tied:
        yield _matrix("output.weight", (s.vocab_size, s.dim), output, next(seeds))


def _rope_factors(shape: Shape) -> NDArray[np.float32]:
    """Llama 3.1's divisors of the rope frequencies: 1 for short waves, the factor for long ones."""
    inverse = shape.rope_theta ** (np.arange(0, shape.head_dim, 2) / shape.head_dim)
    turns = 8192 / (2 * math.pi * inverse)  # in the context that the model was first trained on
    smooth = np.clip((turns - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - smooth) / shape.rope_factor + smooth)).astype(np.float32)


def _vector(name: str, values: NDArray[np.float32]) -> TensorToWrite:
    packed = values.view(np.uint8).reshape(1, -1)
    return TensorToWrite(name, values.shape, find_format("F32"), lambda: iter([packed]))


def _matrix(name: str, size: tuple[int, int], fmt: Format, seed: int) -> TensorToWrite:
    rows, cols = size

    def blocks() -> Iterator[NDArray[np.uint8]]:
        rng = np.random.default_rng(seed)
        for start in range(0, rows, ROWS_AT_ONCE):
            yield _random_rows(rng, min(ROWS_AT_ONCE, rows - start), cols, fmt)

    return TensorToWrite(name, size, fmt, blocks)


def _random_rows(rng: np.random.Generator, rows: int, cols: int, fmt: Format) -> NDArray[np.uint8]:
    """(rows, row_bytes) of weights with mean about 0 and variance 1 / cols."""
    # root mean square of a code that is uniform over its range
    code_rms = {"Q4_0": math.sqrt((16**2 - 1) / 12), "Q8_0": math.sqrt((255**2 - 1) / 12)}
    if fmt.name not in code_rms:
        weights = rng.standard_normal((rows, cols), np.float32)
        return fmt.quantize(weights / np.float32(math.sqrt(cols)))
    packed = rng.integers(0, 256, (rows, cols // fmt.block_size, fmt.type_size), np.uint8)
    if fmt.name == "Q8_0":
        packed[packed == 128] = 127  # a quantizer never writes -128
    scales = rng.uniform(0.8, 1.2, packed.shape[:2]) / (code_rms[fmt.name] * math.sqrt(cols))
    packed[..., :2] = scales.astype(np.float16)[..., None].view(np.uint8)
    return packed.reshape(rows, -1)
