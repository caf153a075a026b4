"""Source: a checkpoint opened and understood, its tensors still on disk.

Each converter turns one kind of folder or file into a Source. What a Source says is already in
GGUF's words: tensor names, row order (q and k rotate adjacent pairs), metadata keys.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.errors import CheckpointRefused
from edgellama.gguf import WriteValue
from edgellama.quant import Format

MAX_LAYERS = 4096
MAX_NUMBER = 1 << 24  # of any count: contexts are the longest

Rows = Callable[[int, int], npt.NDArray[np.float32]]  # (start, stop) -> (stop - start, cols)
Packed = Callable[[int, int], npt.NDArray[np.uint8]]  # (start, stop) -> (stop - start, row_bytes)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user says against the checkpoint, or where it is silent; None leaves it alone."""

    name: str | None = None
    chat_template: str | None = None  # a name of templates.TEMPLATES, a file, or "none"
    context_length: int | None = None
    rope_theta: float | None = None
    rope_factor: float | None = None  # 1 switches the Llama 3.1 scaling off


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3.1's stretching of the slow rotations; lengths in positions."""

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def __post_init__(self) -> None:
        """Raises CheckpointRefused for numbers that make no scaling."""
        low, high = self.low_freq_factor, self.high_freq_factor
        if not (1e-3 <= self.factor <= 1e6 and 1e-3 <= low < high <= 1e6):
            raise CheckpointRefused(
                f"rope is scaled by {self.factor:g} between {low:g} and {high:g} turns, which makes"
                " no sense; Llama 3.1's numbers are 8, 1 and 4"
            )

    def divisors(self, head_dim: int, theta: float) -> npt.NDArray[np.float32]:
        """(head_dim / 2,) float32: what each rotation frequency is divided by (`rope_freqs`).

        A pair that turns at least `high_freq_factor` times within the original context keeps its
        frequency, one that turns less than `low_freq_factor` times is slowed by `factor`, those
        between are blended. Float32 throughout, as the reference implementations compute it.
        """
        exponents = np.arange(0, head_dim, 2).astype(np.float32) / np.float32(head_dim)
        frequencies = np.float32(1) / np.float32(theta) ** exponents
        turns = np.float32(self.original_context) * frequencies / np.float32(2 * np.pi)
        low, high = np.float32(self.low_freq_factor), np.float32(self.high_freq_factor)
        factor = np.float32(self.factor)
        smooth = (turns - low) / (high - low)
        blended = 1 / ((1 - smooth) / factor + smooth)
        divisors = np.where(turns > high, np.float32(1), np.where(turns < low, factor, blended))
        return divisors.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """The numbers that make a Llama, named as in params.json."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    context_length: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    linear_scaling: float = 1.0  # every position counts as position / this

    def __post_init__(self) -> None:
        """Raises CheckpointRefused for what no Llama has, before anything is sized by it."""
        if self.n_heads % self.n_kv_heads:
            raise CheckpointRefused(
                f"{self.n_heads} heads do not divide by {self.n_kv_heads} key and value heads"
            )
        if self.head_dim % 2:
            raise CheckpointRefused(f"heads of width {self.head_dim} cannot turn in pairs")
        if self.n_layers > MAX_LAYERS:
            raise CheckpointRefused(f"{self.n_layers:,} layers; the largest Llama has 126")
        if not 1 < self.rope_theta <= 1e12:
            raise CheckpointRefused(f"rope theta is {self.rope_theta:g}, expected e.g. 10000")
        if not 0 < self.norm_eps <= 0.1:
            raise CheckpointRefused(f"norm eps is {self.norm_eps:g}, expected e.g. 1e-05")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """GGUF name -> (rows, cols) or (n,) of every tensor, in the order a token meets them."""
        q, kv = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.vocab_size, self.dim)}
        for i in range(self.n_layers):
            layer: dict[str, tuple[int, ...]] = {
                "attn_norm": (self.dim,),
                "attn_q": (q, self.dim),
                "attn_k": (kv, self.dim),
                "attn_v": (kv, self.dim),
                "attn_output": (self.dim, q),
                "ffn_norm": (self.dim,),
                "ffn_gate": (self.hidden_dim, self.dim),
                "ffn_up": (self.hidden_dim, self.dim),
                "ffn_down": (self.dim, self.hidden_dim),
            }
            shapes |= {f"blk.{i}.{part}.weight": shape for part, shape in layer.items()}
        shapes["output_norm.weight"] = (self.dim,)
        shapes["output.weight"] = (self.vocab_size, self.dim)
        return shapes

    def metadata(self) -> dict[str, WriteValue]:
        """The `llama.*` keys of GGUF."""
        keys: dict[str, WriteValue] = {
            "llama.vocab_size": self.vocab_size,
            "llama.context_length": self.context_length,
            "llama.embedding_length": self.dim,
            "llama.block_count": self.n_layers,
            "llama.feed_forward_length": self.hidden_dim,
            "llama.attention.head_count": self.n_heads,
            "llama.attention.head_count_kv": self.n_kv_heads,
            "llama.attention.layer_norm_rms_epsilon": float(self.norm_eps),
            "llama.rope.dimension_count": self.head_dim,
            "llama.rope.freq_base": float(self.rope_theta),
        }
        if self.linear_scaling != 1:
            keys["llama.rope.scaling.type"] = "linear"
            keys["llama.rope.scaling.factor"] = float(self.linear_scaling)
        if self.head_dim * self.n_heads != self.dim:
            keys["llama.attention.key_length"] = self.head_dim
            keys["llama.attention.value_length"] = self.head_dim
        return keys


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor of the file to be made, and how to read its rows from the checkpoint."""

    name: str  # as in GGUF
    shape: tuple[int, ...]  # (rows, cols) or (n,)
    stored_as: str  # its name in the checkpoint
    dtype: str  # as stored there
    n_bytes: int  # as stored there
    files: tuple[str, ...]
    rows: Rows  # 1-D tensors: (start, stop) -> (stop - start,)
    format: Format | None = None  # of a GGUF source,
    packed: Packed | None = None  # whose bytes may be copied as they are


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint, whole: what it is and how that was seen, metadata, tensors in file order."""

    path: Path
    kind: str  # "Meta folder, 8 shards"
    family: str  # "Llama 3.1 8B Instruct"
    recognised_by: str
    metadata: dict[str, WriteValue]
    tensors: tuple[SourceTensor, ...]
    fingerprint: "Fingerprint"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The identity of every file of a source when it was opened, to notice a change meanwhile."""

    seen: dict[Path, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Iterable[Path]) -> "Fingerprint":
        return cls({path: _identity(path) for path in files})

    def __iter__(self) -> Iterator[Path]:
        return iter(self.seen)

    def __or__(self, other: "Fingerprint") -> "Fingerprint":
        return Fingerprint(self.seen | other.seen)

    def check(self) -> None:
        """CheckpointRefused when a file was replaced, cut or written to since."""
        for path, before in self.seen.items():
            try:
                now = _identity(path)
            except CheckpointRefused:
                now = ()
            if now != before:
                raise CheckpointRefused(f"{path}: changed while it was being read; convert again")


def _identity(path: Path) -> tuple[int, ...]:
    try:
        s = os.stat(path)
    except OSError as error:
        raise CheckpointRefused(f"{path}: cannot be read: {error.strerror}") from error
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns


def positive_int(settings: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A setting of params.json or config.json; null counts as not there."""
    value = default if settings.get(key) is None else settings[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_NUMBER:
        raise CheckpointRefused(f"{key} is {_short(value)}, expected a positive number")
    return value


def positive_float(settings: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A setting of params.json or config.json; null counts as not there."""
    value = default if settings.get(key) is None else settings[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
        raise CheckpointRefused(f"{key} is {_short(value)}, expected a positive number")
    return float(value)


def _short(value: object) -> str:
    return "missing" if value is None else repr(value)[:60]


def join_metadata(
    name: str, hparams: Hyperparameters, vocabulary: dict[str, WriteValue]
) -> dict[str, WriteValue]:
    """All keys of the new file but those that the type of its tensors decides."""
    general: dict[str, WriteValue] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": name,
    }
    return general | hparams.metadata() | vocabulary


def rope_tensor(hparams: Hyperparameters) -> tuple[SourceTensor, ...]:
    """The computed tensor `rope_freqs.weight`, or nothing for plain rope."""
    if hparams.rope_scaling is None:
        return ()
    divisors = hparams.rope_scaling.divisors(hparams.head_dim, hparams.rope_theta)
    return (
        SourceTensor(
            name="rope_freqs.weight",
            shape=divisors.shape,
            stored_as=f"computed, factor {hparams.rope_scaling.factor:g}",
            dtype="F32",
            n_bytes=0,
            files=(),
            rows=lambda start, stop: divisors[start:stop],
        ),
    )
