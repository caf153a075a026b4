"""GGUF, the file format of quantized models: a strict reader (the writer is gguf_writer.py).

    magic "GGUF", version u32, n_tensors u64, n_kv u64                  all little-endian
    n_kv times: key string, type u32, value
        a string is a u64 length and its bytes; an array a type u32, a u64 count and the items
    n_tensors times: name string, n_dims u32, dims u64 (innermost first), type u32, offset u64
    zeros up to a multiple of general.alignment, then the tensors at their offsets from here

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Versions 2 and 3 differ only in name. A
large model may be split into parts NAME-00001-of-00003.gguf ..., the metadata in the first.

A file is not trusted: every length, count and offset is compared with the bytes that are there
before anything is allocated, so that later stages may use the views without checking.
"""

import math
import mmap
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from .errors import ModelFormatError, ResourceError
from .gguf_writer import TensorToWrite, WriteValue, gguf_size, write_gguf
from .quant import FORMATS, Format

__all__ = [
    "GGUFFile",
    "StringArray",
    "TensorInfo",
    "TensorToWrite",
    "Value",
    "WriteValue",
    "gguf_size",
    "write_gguf",
]

VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
# Far above any real model (128k tokens and their merges are 10 MB) and small enough to be read in
# seconds: these bound the work that a hostile file can ask for.
MAX_HEADER_BYTES = 1 << 28
MAX_KEYS = MAX_TENSORS = 1 << 16
MAX_NAME_BYTES = (1 << 16) - 1
MAX_DIM = 1 << 40
MAX_PARTS = 1000
WINDOW = 1 << 18  # bytes that are searched for short strings at once
TOUCHED_AT_ONCE = 1 << 25  # bytes that are prefetched between two looks at what goes on
MANY_STRINGS = 1000  # of which a search has to find so many

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: dict[int, np.dtype[Any]] = {  # value type -> dtype
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
# Tensor types of GGML by id, so that a file we cannot run is refused by the name its user knows.
_GGML_TYPES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0"))),
    **dict(enumerate(("Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS"), 9)),
    **dict(enumerate(("IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS"), 17)),
    **dict(enumerate(("I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16"), 24)),
    **dict(enumerate(("Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0"), 31)),
    **dict(enumerate(("IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4", "NVFP4", "Q1_0"), 36)),
}
_FORMATS = {format.ggml_type: format for format in FORMATS}
_PART_NAME = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf")

# What people pass for a GGUF file, by how it begins: (at byte, bytes, what it is and what to do).
_LOOKS_LIKE = (
    (
        0,
        b"version https://git-lfs",
        "a git-LFS pointer: fetch the model itself with `git lfs pull`",
    ),
    (0, b"PK\x03\x04", "a zip file, as PyTorch's .pth: convert it with `edgellama convert`"),
    (0, b"\x80\x02", "a pickle, as PyTorch's .pth: convert it with `edgellama convert`"),
    (8, b'{"', "a safetensors file: convert its folder with `edgellama convert`"),
    (0, b"{", "JSON, not a model: pass the model file beside it"),
    (0, b"<", "a web page: the download went wrong, fetch the file again"),
    (0, b"\x1f\x8b", "a gzip file: unpack it first"),
    (0, b"lmgg", "GGML, the format before GGUF: convert the original checkpoint again"),
    (0, b"fmgg", "GGMF, a format before GGUF: convert the original checkpoint again"),
    (0, b"tjgg", "GGJT, a format before GGUF: convert the original checkpoint again"),
)


class StringArray(Sequence[str]):
    """An array of strings kept as the file's bytes; a string is decoded when it is asked for.

    [i] raises ModelFormatError where the bytes are not UTF-8; raw(i) never does.
    """

    __slots__ = ("_bytes", "_ends", "_what")

    def __init__(self, data: bytes, ends: npt.NDArray[np.int64], what: str) -> None:
        """data: the strings, each behind its u64 length; ends: where each of them ends."""
        self._bytes, self._ends, self._what = data, ends, what

    def __len__(self) -> int:
        return len(self._ends)

    def raw(self, i: int) -> bytes:
        """The bytes of string i."""
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"string {i} of {n}")
        i %= n
        start = int(self._ends[i - 1]) if i else 0
        return self._bytes[start + 8 : int(self._ends[i])]

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        try:
            return self.raw(i).decode()
        except UnicodeDecodeError:
            raise ModelFormatError(f"{self._what}: string {i} is not UTF-8") from None

    def __iter__(self) -> Iterator[str]:
        start = 0  # a walk over the ends takes a third of the time of looking each string up
        for i, end in enumerate(self._ends.tolist()):
            try:
                yield self._bytes[start + 8 : end].decode()
            except UnicodeDecodeError:
                raise ModelFormatError(f"{self._what}: string {i} is not UTF-8") from None
            start = end

    def joined(self) -> tuple[str, npt.NDArray[np.int64]]:
        """All strings as one, and where in it each of them ends: much quicker than one by one.

        Raises ModelFormatError where a string is not UTF-8.
        """
        data = np.frombuffer(self._bytes, np.uint8)
        is_text = np.ones(len(data), np.bool_)
        is_text[np.append(0, self._ends)[:-1, None] + np.arange(8)] = False  # the lengths
        data, ends = data[is_text], self._ends - 8 * np.arange(1, len(self) + 1)
        is_first = (data & 0xC0) != 0x80  # of the bytes of a character
        try:
            text = data.tobytes().decode()
            if not is_first[ends[ends < len(data)]].all():
                raise ValueError("a character that two strings share")
        except ValueError:
            list(self)  # raises: one of them is not UTF-8
            raise
        return text, np.append(0, np.cumsum(is_first))[ends]

    def __repr__(self) -> str:
        return f"<StringArray of {len(self):,}>"


# Number arrays are read-only copies that outlive the file; bool arrays are arrays of bool_.
Value: TypeAlias = int | float | bool | str | npt.NDArray[Any] | StringArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies; checked to lie inside its file, aligned and apart from all others."""

    name: str
    shape: tuple[int, ...]  # in numpy's order: (rows, cols) or (n,); 1 to 4 dimensions
    format: Format
    offset: int  # from the start of its file
    n_bytes: int
    part: int  # which file of a split model, from 0


class GGUFFile:
    """An open GGUF file (or split model, given its first part), mapped and never copied.

    Raises ModelFormatError for anything that a GGUF file for this runtime may not be, ResourceError
    if the file cannot be opened or mapped. Do not overwrite a file in place while it is open.
    """

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]  # in file order

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.paths: list[Path] = []  # of the parts, in order
        self._maps: list[mmap.mmap] = []
        self._prefetching: threading.Thread | None = None
        try:
            first = self._open_part(self.path, part=0)
            self.version, self.metadata = first.version, MappingProxyType(first.metadata)
            self.tensors = MappingProxyType(first.tensors)
            if _is_split(self.path, first.metadata):
                self._open_other_parts(first)
        except BaseException:
            self.close()
            raise

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The packed rows of a tensor: (rows, row_bytes), read-only; one row if 1-D, and the
        leading dimensions taken together if 3-D or 4-D."""
        info = self.tensors[name]
        if not self._maps:
            raise ValueError(f"{self.path}: is closed")
        view = np.frombuffer(self._maps[info.part], np.uint8, info.n_bytes, info.offset)
        return view.reshape(-1, info.format.row_bytes(info.shape[-1]))

    def prefetch(self) -> None:
        """Have the system read and map the whole file, on a thread, before a first step needs it.

        Only a hint: whoever is quicker reads the page himself. A file for which there is not enough
        memory is left alone: what is read first would be dropped before it is needed.
        """
        import psutil

        if sum(map(len, self._maps)) > psutil.virtual_memory().available:
            return
        self._prefetching = threading.Thread(
            target=self._touch, name="edgellama-prefetch", daemon=True
        )
        with suppress(RuntimeError):  # no more threads
            self._prefetching.start()

    def _touch(self) -> None:
        """Read a byte of each page, until the file is closed; numpy lets other threads run."""
        for mapping in tuple(self._maps):
            for start in range(0, len(mapping), TOUCHED_AT_ONCE):
                if not self._maps:
                    return
                with suppress(ValueError):  # closed just now
                    n_bytes = min(TOUCHED_AT_ONCE, len(mapping) - start)
                    np.frombuffer(mapping, np.uint8, n_bytes, start)[:: mmap.PAGESIZE].max()

    def close(self) -> None:
        """Unmap; views handed out stay valid, and the mapping then goes with the last of them."""
        maps, self._maps = self._maps, []
        if self._prefetching is not None and self._prefetching.ident is not None:
            self._prefetching.join()
        for mapping in maps:
            with suppress(BufferError):
                mapping.close()

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_part(self, path: Path, part: int) -> "_Header":
        mapping = _map_file(path)
        self._maps.append(mapping)
        self.paths.append(path)
        return _Header(path, mapping, part)

    def _open_other_parts(self, first: "_Header") -> None:
        """Open part 2 to N beside the first and join their tensors."""
        name = _PART_NAME.fullmatch(self.path.name)
        count = first.metadata.get("split.count")
        if name is None:
            raise ModelFormatError(
                f"{self.path}: is one of {show(count)} parts, but is not named"
                " NAME-00001-of-0000N.gguf"
            )
        if int(name["part"]) != 1:
            raise ModelFormatError(
                f"{self.path}: is part {int(name['part'])} of a split model; open the first part,"
                f" {name['stem']}-00001-of-{name['count']}.gguf"
            )
        if not _equal(count, int(name["count"])) or not 1 <= int(name["count"]) <= MAX_PARTS:
            raise ModelFormatError(
                f"{self.path}: split.count is {show(count)}, the file's name says"
                f" {int(name['count'])}"
            )
        paths = [
            self.path.with_name(f"{name['stem']}-{i:05d}-of-{name['count']}.gguf")
            for i in range(1, int(name["count"]) + 1)
        ]
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise ModelFormatError(
                f"{self.path}: {len(missing)} of {len(paths)} parts are missing:"
                f" {', '.join(missing[:5])}"
            )
        tensors = dict(first.tensors)
        for part, path in enumerate(paths):
            header = first if part == 0 else self._open_part(path, part)
            no, of = header.metadata.get("split.no"), header.metadata.get("split.count")
            if not (_equal(no, part) and _equal(of, len(paths))):
                raise ModelFormatError(
                    f"{path}: says it is part {show(no)} (from 0) of {show(of)}, expected {part}"
                    f" of {len(paths)}"
                )
            if part and (twice := tensors.keys() & header.tensors.keys()):
                raise ModelFormatError(
                    f"{path}: tensor {show(min(twice))} is in an earlier part as well"
                )
            tensors |= header.tensors
        total = first.metadata.get("split.tensors.count", len(tensors))
        if not _equal(total, len(tensors)):
            raise ModelFormatError(
                f"{self.path}: the parts hold {len(tensors):,} tensors, split.tensors.count says"
                f" {show(total)}; the parts are not of one model"
            )
        self.tensors = MappingProxyType(tensors)


def _is_split(path: Path, metadata: Mapping[str, Value]) -> bool:
    """Whether there are other parts, by what the file says or by how it is named."""
    name = _PART_NAME.fullmatch(path.name)
    default = int(name["count"]) if name else 1
    return not (_equal(metadata.get("split.count", default), 1) and default == 1)


def _equal(value: Value | None, number: int) -> bool:
    """Whether a metadata value is this number; an array never is."""
    return isinstance(value, int) and value == number


def _map_file(path: Path) -> mmap.mmap:
    """The whole file, read-only, once it is known to begin like GGUF."""
    try:
        # Asked before opening, which would wait for ever on a pipe.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ModelFormatError(f"{path}: is a directory or device, expected a GGUF file")
        with open(path, "rb") as file:
            _check_beginning(path, file.read(64))
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, OverflowError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise ResourceError(f"{path}: cannot be opened: {words}") from error


def _check_beginning(path: Path, head: bytes) -> None:
    """Refuse what is not GGUF and say what it is instead."""
    if head[:4] == b"GGUF":
        return
    if not head:
        raise ModelFormatError(f"{path}: is empty; the download failed")
    for at, begin, words in _LOOKS_LIKE:
        if head[at:].startswith(begin) or (at == 0 and head.lstrip().startswith(begin)):
            raise ModelFormatError(f"{path}: not a GGUF file; it looks like {words}")
    raise ModelFormatError(f"{path}: not a GGUF file; it begins with {head[:8]!r}, not b'GGUF'")


class _Header:
    """One pass over the header of one file, checking each field where it is read."""

    def __init__(self, path: Path, data: mmap.mmap, part: int) -> None:
        self.path, self._data, self._size = path, data, len(data)
        self._end = min(self._size, MAX_HEADER_BYTES)
        self._at = 4  # behind the magic
        self.version = self._read_version()
        n_tensors, n_kv = self._number("<Q"), self._number("<Q")
        self._check_count("tensors", n_tensors, MAX_TENSORS, least_bytes=24)
        self._check_count("metadata keys", n_kv, MAX_KEYS, least_bytes=13)
        self.metadata: dict[str, Value] = {}
        for _ in range(n_kv):
            self._read_key_value()
        alignment = self._alignment()
        infos = [self._read_tensor_info(part) for _ in range(n_tensors)]
        start = -(-self._at // alignment) * alignment
        self.tensors = self._place(infos, start, alignment)

    def _fail(self, words: str, at: int | None = None) -> ModelFormatError:
        return ModelFormatError(f"{self.path}: byte {self._at if at is None else at:,}: {words}")

    def _need(self, n_bytes: int, what: str) -> None:
        """Check that n_bytes more are there, before any of them is touched or copied."""
        if n_bytes <= self._end - self._at:
            return
        if n_bytes <= self._size - self._at:
            raise self._fail(f"the header passes {MAX_HEADER_BYTES:,} bytes; no real model's does")
        raise self._fail(
            f"{what} needs {n_bytes:,} bytes, {self._size - self._at:,} are left; the file is"
            " damaged or its download incomplete"
        )

    def _number(self, form: str) -> int:
        size = struct.calcsize(form)
        self._need(size, "a number")
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += size
        return int(value)

    def _string(self, what: str) -> str:
        length = self._number("<Q")
        self._need(length, what)
        start, self._at = self._at, self._at + length
        try:
            return self._data[start : self._at].decode()
        except UnicodeDecodeError:
            raise self._fail(f"{what} is not UTF-8", start) from None

    def _read_version(self) -> int:
        version = self._number("<I")
        if version in VERSIONS:
            return version
        if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, *VERSIONS):
            raise self._fail("a big-endian file; only little-endian GGUF is supported", 4)
        raise self._fail(
            f"GGUF version {version}; supported are 2 and 3, convert the model again", 4
        )

    def _check_count(self, what: str, count: int, most: int, least_bytes: int) -> None:
        if count > most or count * least_bytes > self._size:
            raise self._fail(f"{count:,} {what} announced, more than a file of this size can hold")

    def _name(self, what: str) -> str:
        start = self._at
        name = self._string(f"the name of a {what}")
        if not 1 <= self._at - start - 8 <= MAX_NAME_BYTES:
            raise self._fail(f"the name of a {what} is empty or too long", start)
        return name

    def _read_key_value(self) -> None:
        start = self._at
        key = self._name("metadata key")
        if key in self.metadata:
            raise self._fail(f"metadata key {show(key)} appears twice", start)
        self.metadata[key] = self._value(key, self._number("<I"))

    def _value(self, key: str, kind: int) -> Value:
        if kind == _STRING:
            return self._string(f"the value of {show(key)}")
        if kind in _NUMBERS:
            value: Value = self._numbers(key, kind, 1)[0].item()
            return value
        if kind != _ARRAY:
            raise self._fail(f"{show(key)} has value type {kind}, known are 0 to 12", self._at - 4)
        kind, count = self._number("<I"), self._number("<Q")
        if kind == _STRING:
            return self._strings(key, count)
        if kind in _NUMBERS:
            return self._numbers(key, kind, count)
        raise self._fail(
            f"{show(key)} is an array of value type {kind}; it must hold numbers or strings",
            self._at - 12,
        )

    def _numbers(self, key: str, kind: int, count: int) -> npt.NDArray[Any]:
        dtype = _NUMBERS[kind]
        self._need(count * dtype.itemsize, f"the value of {show(key)}")
        raw = self._data[self._at : self._at + count * dtype.itemsize]
        if kind == _BOOL and raw.strip(b"\0\1"):
            raise self._fail(f"{show(key)} is of type bool, but not 0 or 1")
        self._at += len(raw)
        return np.frombuffer(raw, dtype)

    def _strings(self, key: str, count: int) -> StringArray:
        """Find where each string ends: the one loop that a large vocabulary waits for."""
        self._need(count * 8, f"the value of {show(key)}")
        start, ends, i = self._at, np.empty(count, np.int64), 0
        while i < count:
            found: Sequence[int] | npt.NDArray[np.int64] = ()
            if count - i >= MANY_STRINGS:
                found = _ends_of_short_strings(self._data, self._at, self._end)[: count - i]
            if len(found) < MANY_STRINGS:  # never less for each search, in no file
                found = self._walk(key, range(i, min(count, i + MANY_STRINGS)))
            ends[i : i + len(found)] = found
            i, self._at = i + len(found), int(found[-1])
        text = self._data[start : self._at]
        return StringArray(text, ends - start, f"{self.path}: {show(key)}")

    def _walk(self, key: str, numbers: range) -> list[int]:
        """Where each of these strings ends, from one length to the next."""
        ends, at, end = [], self._at, self._end
        unpack = struct.Struct("<Q").unpack_from
        for i in numbers:
            if at + 8 <= end:
                at += unpack(self._data, at)[0]
            at += 8
            if at > end:
                raise self._fail(
                    f"string {i:,} of {show(key)} ends behind the file; it is damaged or its"
                    " download incomplete"
                )
            ends.append(at)
        return ends

    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if (
            not isinstance(alignment, int)
            or isinstance(alignment, bool)
            or not 8 <= alignment <= 1 << 20
            or alignment & (alignment - 1)
        ):
            raise ModelFormatError(
                f"{self.path}: general.alignment is {show(alignment)}, expected a power of two"
                " from 8 to 1,048,576"
            )
        return alignment

    def _read_tensor_info(self, part: int) -> TensorInfo:
        """One entry of the tensor table; its offset still counts from the start of the data."""
        start = self._at
        name = self._name("tensor")
        n_dims = self._number("<I")
        if not 1 <= n_dims <= 4:
            raise self._fail(f"tensor {show(name)} has {n_dims} dimensions, expected 1 to 4", start)
        shape = tuple(self._number("<Q") for _ in range(n_dims))[::-1]
        if not all(1 <= dim <= MAX_DIM for dim in shape):
            raise self._fail(f"tensor {show(name)} has the shape {shape}", start)
        format = self._format(name, self._number("<I"))
        try:
            n_bytes = math.prod(shape[:-1]) * format.row_bytes(shape[-1])
        except ValueError as error:
            raise self._fail(f"tensor {show(name)}: {error}", start) from None
        return TensorInfo(name, shape, format, self._number("<Q"), n_bytes, part)

    def _format(self, name: str, ggml_type: int) -> Format:
        if ggml_type in _FORMATS:
            return _FORMATS[ggml_type]
        known = ", ".join(format.name for format in FORMATS)
        if ggml_type in _GGML_TYPES:
            raise self._fail(
                f"tensor {show(name)} is of type {_GGML_TYPES[ggml_type]}; this version runs"
                f" {known}: take or make (`edgellama convert`) a file of one of these types"
            )
        raise self._fail(f"tensor {show(name)} has type {ggml_type}, which is none of {known}")

    def _place(self, infos: list[TensorInfo], start: int, alignment: int) -> dict[str, TensorInfo]:
        """Move offsets to the start of the file; each tensor inside it, aligned, and alone."""
        tensors: dict[str, TensorInfo] = {}
        for info in infos:
            if info.name in tensors:
                raise ModelFormatError(f"{self.path}: tensor {show(info.name)} appears twice")
            if info.offset % alignment:
                raise ModelFormatError(
                    f"{self.path}: tensor {show(info.name)} lies at {info.offset:,}, which is not"
                    f" a multiple of the alignment {alignment}"
                )
            tensors[info.name] = replace(info, offset=start + info.offset)
        by_offset = sorted(tensors.values(), key=lambda info: info.offset)
        for left, right in pairwise(by_offset):
            if left.offset + left.n_bytes > right.offset:
                raise ModelFormatError(
                    f"{self.path}: tensors {show(left.name)} and {show(right.name)} overlap"
                )
        if by_offset and (end := by_offset[-1].offset + by_offset[-1].n_bytes) > self._size:
            raise ModelFormatError(
                f"{self.path}: {end:,} bytes announced, {self._size:,} present; the download is"
                " incomplete"
            )
        return tensors


def _ends_of_short_strings(data: mmap.mmap, at: int, end: int) -> npt.NDArray[np.int64]:
    """Where the strings from `at` on end, up to one that does not show itself.

    The length of a short string is a byte and seven zeros, which text does not hold. What looks
    like one is one if it stands where the string before it ends.
    """
    window = np.frombuffer(data, np.uint8, min(end - at, WINDOW), at)
    zeros = window == 0
    for n in (1, 2, 3):  # two in a row, four, seven
        zeros = zeros[:-n] & zeros[n:]
    starts = np.flatnonzero(zeros[1:])
    ends = starts + 8 + window[starts]
    right = (starts == np.append(0, ends[:-1])) & (ends <= end - at)
    return at + ends[: np.argmin(np.append(right, False))]


def show(value: object) -> str:
    """Something out of a file, fit for a one-line message: escaped and cut, it may be hostile."""
    if isinstance(value, str):
        return repr(value if len(value) <= 64 else value[:61] + "...")
    if isinstance(value, np.ndarray):
        return f"an array of {value.size:,}"
    return repr(value)
