"""The shape of a Llama model, read from GGUF metadata and checked before anything is sized by it.

Keys as in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, fields as in Meta's
params.json.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .errors import ModelFormatError
from .gguf import GGUFFile, StringArray, show

# Keys that change the arithmetic in ways not run here, with the value that changes nothing.
_NEUTRAL: dict[str, object] = {
    "llama.expert_count": 0,
    "llama.attention.scale": None,
    "llama.attention.causal": True,
    "llama.attention.max_alibi_bias": 0.0,
    "llama.attention.clamp_kqv": 0.0,
    "llama.logit_scale": 1.0,
    "llama.embedding_scale": 1.0,
    "llama.residual_scale": 1.0,
}
_SPECIAL_IDS = ("bos", "eos", "eot", "eom")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Hyper-parameters of one Llama text model; counts unless said otherwise."""

    name: str
    dim: int  # width of the residual stream
    n_layers: int
    n_heads: int
    n_kv_heads: int  # divides n_heads
    head_dim: int
    hidden_dim: int  # width inside the feed-forward
    vocab_size: int
    context_length: int  # tokens the model was trained for
    norm_eps: float
    rope_theta: float
    rope_dim: int  # even, <= head_dim: how many of a head's values are rotated
    rope_scale: float = 1.0  # linear scaling: every position counts as position / rope_scale

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> "ModelConfig":
        """Read and check; raises ModelFormatError naming the key that is missing or wrong."""
        arch = _get(file, "general.architecture", str, None)
        if arch != "llama":
            raise ModelFormatError(
                f"{file.path}: holds a model of architecture {show(arch)}; edgellama runs the Llama"
                " text models (architecture 'llama')"
            )
        for key, neutral in _NEUTRAL.items():
            value = file.metadata.get(key, neutral)
            if isinstance(value, np.ndarray) or value != neutral:
                raise ModelFormatError(
                    f"{file.path}: {key} is {show(value)}; models that need it are not supported"
                )
        dim = _count(file, "llama.embedding_length", 2**20)
        n_heads = _count(file, "llama.attention.head_count", 2**14)
        n_kv_heads = _count(file, "llama.attention.head_count_kv", n_heads, default=n_heads)
        if n_heads % n_kv_heads:
            raise ModelFormatError(
                f"{file.path}: llama.attention.head_count_kv {n_kv_heads} does not divide"
                f" llama.attention.head_count {n_heads}"
            )
        head_dim = _head_dim(file, dim, n_heads)
        rope_dim = _count(file, "llama.rope.dimension_count", head_dim, default=head_dim)
        if rope_dim % 2:
            raise ModelFormatError(
                f"{file.path}: llama.rope.dimension_count is {rope_dim}, an even number is needed"
            )
        return cls(
            name=_name(file),
            dim=dim,
            n_layers=_count(file, "llama.block_count", 2**12),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            hidden_dim=_count(file, "llama.feed_forward_length", 2**22),
            vocab_size=_vocab_size(file),
            context_length=_count(file, "llama.context_length", 2**24),
            norm_eps=_real(file, "llama.attention.layer_norm_rms_epsilon", 0.0, 0.1),
            rope_theta=_real(file, "llama.rope.freq_base", 1.0, 1e12, default=10000.0),
            rope_dim=rope_dim,
            rope_scale=_rope_scale(file),
        )


def _name(file: GGUFFile) -> str:
    """What the model calls itself, fit to be printed on a terminal."""
    name = _get(file, "general.name", str, file.path.stem)
    return "".join(letter for letter in name[:200] if letter.isprintable())


def _head_dim(file: GGUFFile, dim: int, n_heads: int) -> int:
    """Width of a head: written down where it is not dim / n_heads."""
    key_length = _count(file, "llama.attention.key_length", 2**12, default=dim // n_heads)
    value_length = _count(file, "llama.attention.value_length", 2**12, default=dim // n_heads)
    if "llama.attention.key_length" not in file.metadata and dim % n_heads:
        raise ModelFormatError(
            f"{file.path}: llama.attention.head_count {n_heads} does not divide"
            f" llama.embedding_length {dim}, and llama.attention.key_length is not given"
        )
    if key_length != value_length:
        raise ModelFormatError(
            f"{file.path}: llama.attention.key_length {key_length} and value_length {value_length}"
            " differ; Llama heads are equally wide"
        )
    return key_length


def _vocab_size(file: GGUFFile) -> int:
    """Rows of the embedding, which the vocabulary, the key and the special ids must agree with."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelFormatError(f"{file.path}: tensor token_embd.weight is missing")
    vocab_size = embedding.shape[0]
    declared = _count(file, "llama.vocab_size", 2**24, default=vocab_size)
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    known = len(tokens) if isinstance(tokens, StringArray) else vocab_size
    if not vocab_size == declared == known:
        raise ModelFormatError(
            f"{file.path}: token_embd.weight has {vocab_size:,} rows, llama.vocab_size says"
            f" {declared:,}, tokenizer.ggml.tokens has {known:,} entries; they must be equal"
        )
    for name in _SPECIAL_IDS:
        key = f"tokenizer.ggml.{name}_token_id"
        if _get(file, key, int, 0) not in range(vocab_size):
            raise ModelFormatError(
                f"{file.path}: {key} is {file.metadata[key]!r}, outside the vocabulary of"
                f" {vocab_size:,}"
            )
    return vocab_size


def _rope_scale(file: GGUFFile) -> float:
    """The factor of linear rope scaling (Llama 3.1's scaling is a tensor, rope_freqs.weight)."""
    kind = _get(file, "llama.rope.scaling.type", str, "none")
    if kind == "linear":
        return _real(file, "llama.rope.scaling.factor", 1e-6, 1e6)
    if kind == "none":  # before the key had a type, a factor alone meant linear
        return _real(file, "llama.rope.scale_linear", 1e-6, 1e6, default=1.0)
    raise ModelFormatError(
        f"{file.path}: llama.rope.scaling.type is {show(kind)}; known are 'none' and 'linear'"
    )


T = TypeVar("T", int, float, str)


def _get(file: GGUFFile, key: str, kind: type[T], default: T | None) -> T:
    """The value of a key, which must be of the kind; missing is an error if there is no default."""
    value = file.metadata.get(key, default)
    if value is None:
        raise ModelFormatError(f"{file.path}: metadata key {key} is missing")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ModelFormatError(
            f"{file.path}: {key} is of type {type(value).__name__}, expected {kind.__name__}"
        )
    return value


def _count(file: GGUFFile, key: str, largest: int, *, default: int | None = None) -> int:
    value = _get(file, key, int, default)
    if not 1 <= value <= largest:
        raise ModelFormatError(f"{file.path}: {key} is {value:,}, expected 1..{largest:,}")
    return value


def _real(
    file: GGUFFile, key: str, above: float, largest: float, *, default: float | None = None
) -> float:
    value = _get(file, key, float, default)
    if not (math.isfinite(value) and above < value <= largest):
        raise ModelFormatError(
            f"{file.path}: {key} is {value:g}, expected more than {above:g} and at most {largest:g}"
        )
    return value
