"""Zip archives whose members are stored as they are, so that a member is a region of the file.

Strict where readers of zip files are generous, because two readings of one file are how archives
deceive: the directory ends the file, every local header agrees with it, nothing is compressed or
encrypted, no two members share a name or a byte. Layout: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7
(local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end), 4.5.3 (zip64 field).
"""

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from .checkpoint import SourceFile, quoted

# Llama 405B has 1,138 tensors; these bound the memory that a directory can ask for.
MAX_DIRECTORY_BYTES = 8 << 20
MAX_MEMBERS = 16_384

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_SATURATED16, _SATURATED32 = 0xFFFF, 0xFFFFFFFF  # "the zip64 record says it"
_ZIP64_FIELD = 1
_ENCRYPTED_FLAGS = 1 << 0 | 1 << 6 | 1 << 13
_SIZES_FOLLOW_FLAG = 1 << 3


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of a file, from `offset` on."""

    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the directory says of a member."""

    name: bytes
    flags: int
    method: int
    n_bytes: int
    header_offset: int


def stored_members(file: SourceFile) -> dict[str, Region]:
    """Where the bytes of each member lie, by name.

    Raises:
        CheckpointRefused: not a zip archive of stored members, incomplete, or contradicting itself.
    """
    where, n_members = _find_directory(file)
    members: dict[str, Region] = {}
    taken: list[tuple[int, int, str]] = []
    for entry in _entries(file, where, n_members):
        name = _name(file, entry.name)
        if name in members:
            _refuse(file, f"has two members {quoted(name)}")
        region = _member_region(file, entry, name)
        end = region.offset + region.n_bytes
        if end > where.offset:
            _refuse(file, f"member {quoted(name)} reaches beyond the members' part of the file")
        members[name] = region
        taken.append((entry.header_offset, end, name))
    taken.sort()
    for (_, end, name), (start, _, following) in pairwise(taken):
        if start < end:
            _refuse(file, f"members {quoted(name)} and {quoted(following)} overlap")
    return members


def _find_directory(file: SourceFile) -> tuple[Region, int]:
    """Where the directory lies, and how many members it lists."""
    end_offset = file.size - _END.size
    if end_offset < 0:
        _refuse(file, "is too short to hold a directory; the download is incomplete")
    signature, disk, first_disk, n_here, n_members, n_bytes, offset, n_comment = _END.unpack(
        file.read(end_offset, _END.size)
    )
    if signature != b"PK\5\6" or n_comment:
        _refuse(file, "does not end with its directory; the download is incomplete")
    if disk or first_disk or n_here != n_members:
        _refuse(file, "is part of an archive of several disks")
    ends_at = end_offset
    locator_offset = end_offset - _LOCATOR64.size
    locator = file.read(locator_offset, _LOCATOR64.size) if locator_offset >= 0 else b""
    if locator.startswith(b"PK\6\7"):
        _, _, ends_at, _ = _LOCATOR64.unpack(locator)
        if ends_at + _END64.size != locator_offset:
            _refuse(file, "its zip64 locator points elsewhere than before itself")
        record = _END64.unpack(file.read(ends_at, _END64.size))
        signature, n_members64, n_bytes64, offset64 = record[0], *record[7:]
        if (
            signature != b"PK\6\6"
            or n_members not in (n_members64, _SATURATED16)
            or n_bytes not in (n_bytes64, _SATURATED32)
            or offset not in (offset64, _SATURATED32)
        ):
            _refuse(file, "its zip64 end record contradicts its end record")
        n_members, n_bytes, offset = n_members64, n_bytes64, offset64
    if offset + n_bytes != ends_at:
        _refuse(file, f"its directory of {n_bytes:,} bytes at byte {offset:,} is misplaced")
    if n_members > MAX_MEMBERS or n_bytes > MAX_DIRECTORY_BYTES:
        _refuse(
            file,
            f"has {n_members:,} members in a directory of {n_bytes:,} bytes, at most "
            f"{MAX_MEMBERS:,} in {MAX_DIRECTORY_BYTES:,} are read",
        )
    return Region(offset, n_bytes), n_members


def _entries(file: SourceFile, where: Region, n_members: int) -> list[_Entry]:
    directory = file.read(where.offset, where.n_bytes)
    entries: list[_Entry] = []
    position = 0
    for _ in range(n_members):
        if position + _ENTRY.size > len(directory):
            _refuse(file, f"its directory ends after {len(entries)} of {n_members:,} members")
        fields = _ENTRY.unpack_from(directory, position)
        signature, flags, method, packed, unpacked = *fields[:1], *fields[3:5], *fields[8:10]
        n_name, n_extra, n_comment, disk, header_offset = *fields[10:14], fields[16]
        position += _ENTRY.size
        name = directory[position : position + n_name]
        extra = directory[position + n_name : position + n_name + n_extra]
        position += n_name + n_extra + n_comment
        if signature != b"PK\1\2" or disk or position > len(directory):
            _refuse(file, f"entry {len(entries)} of its directory is damaged")
        unpacked, packed, header_offset = _with_zip64(
            file, extra, [unpacked, packed, header_offset]
        )
        if method != 0 or packed != unpacked:
            _refuse(
                file,
                f"member {quoted(_name(file, name))} is compressed (method {method}); torch.save "
                "stores members as they are",
            )
        entries.append(_Entry(name, flags, method, unpacked, header_offset))
    if position != len(directory):
        _refuse(file, f"{len(directory) - position:,} bytes follow the entries of its directory")
    return entries


def _with_zip64(file: SourceFile, extra: bytes, numbers: list[int]) -> list[int]:
    """`numbers` with each saturated one taken from the zip64 field, which holds only these."""
    wide: list[int] = []
    position = 0
    while position + 4 <= len(extra):
        kind, n_bytes = struct.unpack_from("<2H", extra, position)
        if kind == _ZIP64_FIELD:
            body = extra[position + 4 : position + 4 + n_bytes]
            wide = [number for (number,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
        position += 4 + n_bytes
    if len(wide) < numbers.count(_SATURATED32):
        _refuse(file, "lacks a zip64 field that its directory refers to")
    values = iter(wide)
    return [next(values) if number == _SATURATED32 else number for number in numbers]


def _member_region(file: SourceFile, entry: _Entry, name: str) -> Region:
    """Where a member's bytes lie: behind its local header, whose lengths are its own."""
    header = file.read(entry.header_offset, _LOCAL.size + len(entry.name))
    fields = _LOCAL.unpack_from(header)
    signature, flags, method, packed, unpacked, n_name, n_extra = (
        *fields[:1],
        *fields[2:4],
        *fields[7:],
    )
    if (entry.flags | flags) & _ENCRYPTED_FLAGS:
        _refuse(file, f"member {quoted(name)} is encrypted")
    sizes_agree = flags & _SIZES_FOLLOW_FLAG or all(
        n in (entry.n_bytes, _SATURATED32) for n in (packed, unpacked)
    )
    if (
        signature != b"PK\3\4"
        or method != entry.method
        or n_name != len(entry.name)
        or header[_LOCAL.size :] != entry.name
        or not sizes_agree
    ):
        _refuse(file, f"the local header of member {quoted(name)} contradicts the directory")
    return Region(entry.header_offset + _LOCAL.size + n_name + n_extra, entry.n_bytes)


def _name(file: SourceFile, name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        _refuse(file, f"has a member whose name {name[:40]!r} is not UTF-8")


def _refuse(file: SourceFile, reason: str) -> NoReturn:
    raise file.refused(reason)
