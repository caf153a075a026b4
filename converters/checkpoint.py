"""Tensors of a checkpoint: described at once, read a few rows at a time.

A `LazyTensor` knows its shape, its dtype and where in which `SourceFile` its elements lie. Files
are read by position and never mapped: resident memory is what the caller holds, however large the
checkpoint is, and a file cut or a disk lost while it is read is an error in words, not a SIGBUS.
"""

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellama.errors import CheckpointRefused

# Name of an element type (as safetensors spells it) -> how numpy holds the stored bytes.
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # the upper half of a float32
    "F8_E4M3": np.dtype("u1"),  # sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}

MAX_DIMS = 8
MAX_ELEMENTS = 2**40  # no tensor of Llama 405B has more than 2**31
_SPAN_BYTES = 4 << 20  # a strided tensor is read in pieces of at most this many bytes
_GAP_BYTES = 16 << 10  # copying this much costs about as much as one more read
_MAX_JSON_VALUES = 500_000


class SourceFile:
    """One file of a checkpoint, opened anew for every read.

    No handle is kept, so that hundreds of shards need no descriptors and any thread may read. Each
    opening finds the same file as the first one, or the file was changed and is refused.

    Raises:
        CheckpointRefused: missing, not a regular file, unreadable, changed, or too short.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            # Before open(): opening a pipe would wait for a writer for ever.
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise CheckpointRefused(f"{self.path}: is not a regular file")
            with open(self.path, "rb", buffering=0) as file:
                self._identity = _identity(file.fileno())
        except (OSError, ValueError) as error:
            raise self.refused(f"cannot be opened: {_words(error)}") from error
        self.size = self._identity[2]

    def read(self, offset: int, n_bytes: int) -> bytes:
        """The `n_bytes` bytes at `offset`."""
        self._check_inside(offset, n_bytes)
        buffer = np.empty(n_bytes, np.uint8)
        self.read_into(offset, buffer)
        return buffer.tobytes()

    def read_into(self, offset: int, out: npt.NDArray[np.uint8]) -> None:
        """Fill `out`, a contiguous byte array, from `offset` on."""
        self._check_inside(offset, len(out))
        view = out.data
        done = 0
        try:
            with open(self.path, "rb", buffering=0) as file:
                if _identity(file.fileno()) != self._identity:
                    raise self.refused("changed while it was being read; convert a copy at rest")
                file.seek(offset)
                while done < len(view):
                    n_read = file.readinto(view[done:])  # one call gives at most 2 GiB
                    if not n_read:
                        break
                    done += n_read
        except OSError as error:
            raise self.refused(
                f"cannot be read at byte {offset + done:,}: {_words(error)}"
            ) from error
        if done < len(view):
            raise self.refused(f"ends at byte {offset + done:,} while it is being read")

    def _check_inside(self, offset: int, n_bytes: int) -> None:
        if offset + n_bytes > self.size:
            raise self.refused(
                f"{n_bytes:,} bytes expected at byte {offset:,}, but the file has {self.size:,}; "
                "the download is incomplete"
            )

    def refused(self, reason: str) -> CheckpointRefused:
        """The error that names this file."""
        return CheckpointRefused(f"{self.path}: {reason}")


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor that stays in its file. A row is what the first axis counts; a scalar is one row.

    Raises (when read): CheckpointRefused when the file cannot give its bytes any more.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of DTYPES
    file: SourceFile
    offset: int  # bytes, of the first element
    strides: tuple[int, ...]  # elements, as many as axes; row_major(shape) when packed

    @property
    def source(self) -> str:
        """The file it lies in."""
        return str(self.file.path)

    @property
    def n_rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def n_bytes(self) -> int:
        """Bytes of its elements as stored."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows [start, stop) as (stop - start, *shape[1:]) float32; only these are read."""
        return widen(self.raw(start, stop), self.dtype)

    def raw(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop) in the stored type (bf16 as uint16, f8 and bool as uint8)."""
        if not 0 <= start <= stop <= self.n_rows:
            raise ValueError(f"{self.name}: rows {start}..{stop} of {self.n_rows}")
        out = np.empty((stop - start, *self.shape[1:]), DTYPES[self.dtype])
        strides = self.strides or (1,)
        byte_strides = tuple(stride * out.itemsize for stride in strides)
        offset = self.offset + start * byte_strides[0]
        if strides == row_major(out.shape):
            self.file.read_into(offset, out.reshape(-1).view(np.uint8))
        else:
            _gather(self.file, offset, byte_strides, out)
        return out


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a packed tensor, last axis fastest."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def widen(raw: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """Elements stored as `dtype`, as float32 of the same shape; beyond its range they are inf."""
    if dtype == "BF16":
        bits: npt.NDArray[np.uint32] = np.left_shift(raw, 16, dtype=np.uint32)
        return bits.view(np.float32)
    if dtype == "F8_E4M3":
        values: npt.NDArray[np.float32] = _E4M3[raw]
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(raw, np.float32)


def looks_like(head: bytes) -> str:
    """In words, what a file is that begins with `head`; for the error that says it is not ours."""
    for magic, words in _MAGICS:
        if head.startswith(magic):
            return words
    if head[257:262] == b"ustar":
        return "a tar archive"
    return f"no known format (it begins with {head[:8]!r})" if head else "empty"


def parse_json(
    data: bytes, source: str | os.PathLike[str], max_values: int = _MAX_JSON_VALUES
) -> Any:
    """The value of the JSON text `data`, of bounded cost whatever it says.

    Raises:
        CheckpointRefused: not UTF-8, not JSON, a key twice in one object, nested too deep, NaN or
            Infinity, or more values than any Llama needs.
    """
    n_values = data.count(b",") + data.count(b"[") + data.count(b"{")  # counted before it is built
    if n_values > max_values:
        raise CheckpointRefused(
            f"{source}: JSON of {n_values:,} values, at most {max_values:,} are read"
        )
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant
        )
    except RecursionError:
        raise CheckpointRefused(f"{source}: JSON is nested too deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointRefused(f"{source}: JSON cannot be read: {error}") from error


def quoted(name: str) -> str:
    """`name` from a file, fit to be printed: quoted, escaped to ASCII and of bounded length."""
    return ascii(name) if len(name) <= 100 else ascii(name[:100]) + "..."


def _gather(file: SourceFile, offset: int, strides: tuple[int, ...], out: npt.NDArray[Any]) -> None:
    """Fill `out` from elements `strides` bytes apart, holding at most _SPAN_BYTES of the file."""
    if out.size == 0:
        return
    # The axis with the widest steps first; an axis of one element makes no step at all.
    axes = sorted(range(out.ndim), key=lambda axis: -strides[axis])
    strides = tuple(strides[axis] for axis in axes if out.shape[axis] > 1)
    out = out.transpose(axes).squeeze()
    inner = out.itemsize + sum((n - 1) * s for n, s in zip(out.shape[1:], strides[1:], strict=True))
    span = inner + ((out.shape[0] - 1) * strides[0] if strides else 0)
    if span <= _SPAN_BYTES:
        buffer = np.empty(span, np.uint8)
        file.read_into(offset, buffer)
        out[...] = np.ndarray(out.shape, out.dtype, buffer, strides=strides)
        return
    if inner <= _SPAN_BYTES and strides[0] <= _GAP_BYTES:
        step = (_SPAN_BYTES - inner) // strides[0] + 1
        for i in range(0, out.shape[0], step):
            _gather(file, offset + i * strides[0], strides, out[i : i + step])
    else:
        for i in range(out.shape[0]):
            _gather(file, offset + i * strides[0], strides[1:], out[i, ...])


def _e4m3_table() -> npt.NDArray[np.float32]:
    """Value of each byte as float8 e4m3fn (Micikevicius et al. 2022, "FP8 formats")."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    values = np.where(exponent == 0, mantissa / 512, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    values[(codes & 0x7F) == 0x7F] = np.nan
    return np.where(codes & 0x80, -values, values).astype(np.float32)


_E4M3 = _e4m3_table()

_MAGICS = (
    (
        b"version https://git-lfs",
        "a git-LFS pointer and not the file; fetch it with `git lfs pull`",
    ),
    (b"GGUF", "a GGUF file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x80", "a Python pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"{", "JSON text"),
    (b"<", "a web page (HTML or XML); a download that needed a login ends so"),
)


def _identity(descriptor: int) -> tuple[int, int, int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice, _ = counts.most_common(1)[0]
        raise ValueError(f"key {quoted(twice)} appears twice in one object")
    return result


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")
