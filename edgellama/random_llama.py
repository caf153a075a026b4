"""A GGUF with the exact shape of a published Llama and random weights, to measure speed with.

Speed depends on shapes and formats, not on what the weights say, so a benchmark needs no download.
The file is whole: metadata, scaled rope, and a synthetic byte-level BPE vocabulary of the true
size, so that any GGUF runtime loads it. Weights are scaled so that every product keeps unit
variance and activations stay finite through all layers. Rows are put together from a few quantized
runs, so that a format that is slow to quantize to takes no longer.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .gguf import TensorToWrite, write_gguf
from .quant import FORMATS, Format, find_format

Bytes = NDArray[np.uint8]


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
# The usual mixes: the format of most matrices, and of those that are worth more bits.
MIXES = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K")}
_KNOWN = [fmt.name for fmt in FORMATS]
TYPES = (*_KNOWN, *(mix for mix, formats in MIXES.items() if {*formats} <= {*_KNOWN}))

_RUN = 256  # weights that are drawn together; the largest blocks have as many
_POOL = 512  # runs to draw from
_ROWS_AT_ONCE = 1024


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
    """Write `shape` with its matrices in `type_name` of TYPES, as usual files of that name have it.

    output_type: format of the matrix that makes the logits; usually Q6_K where the others have
    fewer bits. progress is called with the number of bytes that have just been written. Raises
    ValueError for a type that is none of TYPES, and what write_gguf raises.
    """
    for asked in (type_name, output_type or type_name):
        if asked.upper() not in TYPES:
            raise ValueError(f"no random weights in {asked!r}; known are {', '.join(TYPES)}")
    metadata = {"general.name": name} | _model_metadata(shape) | _vocabulary(shape.vocab_size)
    tensors = list(_tensors(shape, type_name.upper(), output_type, seed))
    write_gguf(path, metadata, tensors, progress=progress)


def _model_metadata(shape: Shape) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
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


def _tensors(
    shape: Shape, type_name: str, output_type: str | None, seed: int
) -> Iterator[TensorToWrite]:
    s = shape
    most, more = (find_format(name) for name in MIXES.get(type_name, (type_name, type_name)))
    output = find_format(output_type) if output_type else _usual_output(most, s.dim)
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
        "token_embd.weight", (s.vocab_size, s.dim), output if s.tied else most, next(seeds)
    )
    if s.rope_factor != 1:
        yield _vector("rope_freqs.weight", _rope_factors(s))
    for layer in range(s.n_layers):
        yield _vector(f"blk.{layer}.attn_norm.weight", np.ones(s.dim, np.float32))
        yield _vector(f"blk.{layer}.ffn_norm.weight", np.ones(s.dim, np.float32))
        for name, size in matrices.items():
            worth_more = name in ("attn_v", "ffn_down") and _is_worth_more(layer, s.n_layers)
            fmt = more if worth_more else most
            yield _matrix(f"blk.{layer}.{name}.weight", size, fmt, next(seeds))
    yield _vector("output_norm.weight", np.ones(s.dim, np.float32))
    if not s.tied:
        yield _matrix("output.weight", (s.vocab_size, s.dim), output, next(seeds))


def _usual_output(fmt: Format, dim: int) -> Format:
    """As llama-quantize chooses it: Q6_K, or Q8_0 where its blocks do not divide the rows."""
    if fmt.bits_per_weight >= find_format("Q6_K").bits_per_weight:
        return fmt
    return find_format("Q8_0" if dim % find_format("Q6_K").block_size else "Q6_K")


def _is_worth_more(layer: int, n_layers: int) -> bool:
    """llama-quantize's choice for the mixes: the first and last eighth, and each third between."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


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

    def blocks() -> Iterator[Bytes]:
        rng = np.random.default_rng(seed)
        for start in range(0, rows, _ROWS_AT_ONCE):
            yield random_rows(rng, min(_ROWS_AT_ONCE, rows - start), cols, fmt)

    return TensorToWrite(name, size, fmt, blocks)


def random_rows(rng: np.random.Generator, rows: int, cols: int, fmt: Format) -> Bytes:
    """(rows, row_bytes) of weights with mean 0 and variance about 1 / cols, as fast as copying."""
    runs = _runs(fmt, cols)
    chosen = rng.integers(0, len(runs), (rows, fmt.row_bytes(cols) // runs.shape[1]))
    return runs[chosen].reshape(rows, fmt.row_bytes(cols))


@cache
def _runs(fmt: Format, cols: int) -> Bytes:
    """(n, bytes) of short runs of weights, to make rows of `cols` from."""
    rng = np.random.default_rng(0)
    length = math.gcd(cols, _RUN)
    if fmt.can_quantize:
        values = rng.standard_normal((_POOL, length), np.float32) / np.float32(math.sqrt(cols))
        return fmt.quantize(values)
    return _ordinary_blocks(rng, _POOL * length // fmt.block_size, cols, fmt).reshape(_POOL, -1)


def _ordinary_blocks(rng: np.random.Generator, n: int, cols: int, fmt: Format) -> Bytes:
    """(n, type_size): of random bytes those that weights of this size could have."""
    found: list[Bytes] = []
    while sum(map(len, found)) < n:
        blocks = rng.integers(0, 256, (1024, fmt.type_size), np.uint8)
        with np.errstate(all="ignore"):  # most have scales that no weights have
            weights = fmt.dequantize_blocks(blocks) * np.float32(math.sqrt(cols))
            size = np.sqrt((weights**2).mean(axis=1))
            centred = np.abs(weights.mean(axis=1)) < 0.3 * size
        found.append(blocks[centred & (size > 0.5) & (size < 2)])
    return np.concatenate(found)[:n]
