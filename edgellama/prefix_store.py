"""Keys and values kept on disk, so that a prompt is read once in the life of a machine.

What a model remembers of a block of 64 tokens depends on them, on all tokens before them, on the
model and on how keys and values are kept. The name of a block is a hash of just that,

    name[-1] = key_of(model, kv type, arithmetic)
    name[i]  = blake2b(name[i - 1], tokens[64 i : 64 i + 64])

so that prompts share the files of their common beginning, and none is found for another prompt.
One file a block, named by the hash in hexadecimal, little-endian:

    magic "EDGEKV\\r\\n", version u32, bytes of the block u64, name (20,) u8, tokens (64,) i32
    crc32 u32 of all of this file but itself
    the block

Files appear whole, under a temporary name first. They are not flushed to the disk: after a loss of
power the checksum tells what did not get there, and a cache may lose what it can make again.
CRC-32 finds any damage of one byte and all but one in 4e9 of others, at 2.6 GB/s (blake2b 0.6,
sha256 1.6 on the same core), so that the 64 MB of 2,000 tokens of a 1B model are checked in 25 ms.
Several processes may use one folder: all write the same under the same name.
"""

import errno
import itertools
import os
import re
import shutil
import stat
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import InvalidRequest, ResourceError
from .folders import cache_folder, is_ours, make_private
from .gguf import GGUFFile
from .kv_cache import BLOCK_TOKENS

# Raised when the layout of a block changes, or what kernels compute: older blocks are then not
# found, and go when their turn comes.
VERSION = 1
DEFAULT_BYTES = 4 << 30
MAX_PENDING_BYTES = 256 << 20  # that wait to be written; what comes on top is not kept

Block = npt.NDArray[np.uint8]  # (block_bytes,)

_HEADER = struct.Struct("<8sIQ20s256s")
_MAGIC = b"EDGEKV\r\n"
_CHECKSUM = struct.Struct("<I")
_NAME_BYTES = 20
_FILE = re.compile(r"[0-9a-f]{40}\.kv")
_PARTIAL = re.compile(r"[0-9a-f]{40}\.kv\.\d+-\d+")
_STALE_S = 600.0  # a partial file of this age is no one's: a block is written in a blink
_SAMPLE_BYTES = 4096
_SECTOR = 4096  # what a small file takes
_numbers = itertools.count()  # of partial files of this process


def key_of(file: GGUFFile, kv_type: str, arithmetic: str) -> str:
    """What, besides tokens, keys and values depend on; (64,) hexadecimal digits.

    kv_type, arithmetic: as the backend has them (see BlockBackend).

    Of the model count the whole header, with vocabulary, shapes and types, the size of each file,
    and 4 KB at the start, in the middle and at the end of every tensor. Training, merging and
    quantizing anew change every row of the tensors they touch, so that samples tell such models
    apart; to read all of a file would take longer than the prompt. Not noticed is an edit by hand
    of a few rows that keeps all else: give such a file another general.name.
    """
    digest = blake2b(f"{VERSION} {kv_type} {arithmetic}".encode(), digest_size=32)
    for part, path in enumerate(file.paths):
        offsets = [info.offset for info in file.tensors.values() if info.part == part]
        try:
            with open(path, "rb") as raw:
                size = os.fstat(raw.fileno()).st_size
                digest.update(struct.pack("<Q", size))
                digest.update(raw.read(min(offsets, default=size)))
        except OSError as error:
            raise ResourceError(f"{path}: cannot be read: {error.strerror}") from error
    for name in file.tensors:
        data = file.data(name).reshape(-1)
        last = max(len(data) - _SAMPLE_BYTES, 0)
        for at in (0, last // 2, last):
            digest.update(data[at : at + _SAMPLE_BYTES].data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Name:
    """One block of a prompt: where its file is, and how that begins."""

    digest: bytes
    tokens: bytes
    file: str

    def header(self, n_bytes: int) -> bytes:
        return _HEADER.pack(_MAGIC, VERSION, n_bytes, self.digest, self.tokens)


def _names(key: str, tokens: Sequence[int]) -> Iterator[_Name]:
    """Of each whole block of the tokens."""
    ids = np.asarray(tokens, "<i4")
    digest = key.encode()
    for end in range(BLOCK_TOKENS, len(ids) + 1, BLOCK_TOKENS):
        own = ids[end - BLOCK_TOKENS : end].tobytes()
        digest = blake2b(digest + own, digest_size=_NAME_BYTES).digest()
        yield _Name(digest, own, f"{digest.hex()}.kv")


class PrefixStore:
    """A folder of blocks, safe to use from several threads and processes.

    Public to read: folder; hits and misses, in blocks that `load` was asked for; damaged, files
    that were found so and removed; dropped, blocks that were not kept because too many waited;
    refusal, why nothing can be kept ("" while all is well).

    Nothing here raises for what is wrong with files or disks: a cache that cannot be used is empty.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int = DEFAULT_BYTES,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """folder: None is `prefixes` beside the kernels' cache ($EDGELLAMA_CACHE_DIR).

        max_bytes: what the files may take, and never more than they leave free on their disk; the
        least recently used go first. Each process looks anew after writing a 32nd of it, by so much
        several may pass it for a while. report: told, in words and once each, of damage and of why
        nothing is kept; from any thread.
        Raises InvalidRequest for a max_bytes below 0.
        """
        if max_bytes < 0:
            raise InvalidRequest(f"max_bytes must be 0 or more, got {max_bytes}")
        self.max_bytes = max_bytes
        self.hits = self.misses = self.damaged = self.dropped = 0
        self.refusal = ""
        self._report = report or (lambda words: None)
        self._changed = threading.Condition()
        self._pending: dict[str, tuple[_Name, Block, int]] = {}  # by file, with its time of use
        self._pending_bytes = 0
        self._writer: threading.Thread | None = None
        self._closed = False
        self._bytes: int | None = None  # unknown until the folder was looked through
        self._unseen = 0  # bytes written since then
        self._limit = max_bytes
        self._readable = True
        try:
            self.folder = Path(folder) if folder is not None else cache_folder() / "prefixes"
            make_private(self.folder)
        except ResourceError as error:
            self._readable = False
            self._refuse(str(error))

    @property
    def bytes(self) -> int:
        """What the files take on the disk, as far as this process has seen."""
        if self._bytes is None:
            self._look_through()
        return self._bytes or 0

    @property
    def tokens_saved(self) -> int:
        """Tokens that did not have to be computed."""
        return self.hits * BLOCK_TOKENS

    def longest(self, key: str, tokens: Sequence[int]) -> int:
        """How many of the tokens, from the first on, are kept: a multiple of 64; counts nothing."""
        n_blocks = 0
        if self._readable:
            for name in _names(key, tokens):
                if name.file not in self._pending and not (self.folder / name.file).exists():
                    break
                n_blocks += 1
        return n_blocks * BLOCK_TOKENS

    def load(self, key: str, tokens: Sequence[int], *, beyond: int = 0) -> list[Block]:
        """The blocks of the longest beginning of the tokens that is kept and whole.

        beyond: how many of the tokens the caller has already; [] where no more than those are kept,
        and hits and misses are counted behind them. A damaged file is removed, so that `save` can
        write it anew.
        """
        blocks: list[Block] = []
        if self.longest(key, tokens) > beyond:
            used = time.time_ns()
            for i, name in enumerate(_names(key, tokens)):
                block = self._read(name)
                if block is None:
                    break
                self._touch(name.file, used, i)
                blocks.append(block)
        n_had = beyond // BLOCK_TOKENS
        n_new = max(len(blocks) - n_had, 0)
        with self._changed:
            self.hits += n_new
            self.misses += max(len(tokens) // BLOCK_TOKENS - n_had - n_new, 0)
        return blocks if n_new else []

    def save(
        self, key: str, tokens: Sequence[int], blocks: Sequence[Block], first: int = 0
    ) -> None:
        """Keep those of the blocks that are not kept yet; a thread writes them, soon.

        blocks[i] belongs to tokens 64 (first + i) to 64 (first + i) + 63, and is not to be changed
        any more. What is beyond the queue's 256 MB is dropped: to compute is never held up.
        """
        used = time.time_ns()
        names = itertools.islice(_names(key, tokens), first, first + len(blocks))
        for i, (name, block) in enumerate(zip(names, blocks, strict=True), first):
            if not self._readable or self._touch(name.file, used, i):
                continue
            with self._changed:
                if self._closed or self.refusal or name.file in self._pending:
                    continue
                if self._pending_bytes + block.nbytes > MAX_PENDING_BYTES:
                    self.dropped += 1
                    continue
                self._pending[name.file] = name, block, _time_of(used, i)
                self._pending_bytes += block.nbytes
                self._start_writer()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits to be written; False if that takes longer than `timeout` s."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, for at most `timeout` seconds, and keep nothing new any more."""
        self._closed = True
        if not self.flush(timeout):
            self._forget_pending()

    def _start_writer(self) -> None:
        """Have a thread that writes until nothing waits; none is left behind then."""
        if self._writer is not None and self._writer.is_alive():
            return
        self._writer = threading.Thread(
            target=self._write_pending, name="edgellama-prefixes", daemon=True
        )
        try:
            self._writer.start()
        except RuntimeError:  # the interpreter is going down, or there are too many threads
            self._writer = None
            self._forget_pending()

    def _write_pending(self) -> None:
        while True:
            with self._changed:
                if not self._pending:
                    self._writer = None
                    return
                file, (name, block, used) = next(iter(self._pending.items()))
            try:
                self._write(name, block, used)
            except OSError as error:
                self._refuse(f"{self.folder}: {error.strerror}")
                self._forget_pending()
            except ResourceError as error:
                self._refuse(str(error))
                self._forget_pending()
            with self._changed:
                if self._pending.pop(file, None) is not None:
                    self._pending_bytes -= block.nbytes
                self._changed.notify_all()

    def _forget_pending(self) -> None:
        with self._changed:
            self.dropped += len(self._pending)
            self._pending.clear()
            self._pending_bytes = 0
            self._changed.notify_all()

    def _refuse(self, reason: str) -> None:
        """Keep nothing more, and say why once."""
        if not self.refusal:
            self.refusal = reason
            self._report(f"prompts are not kept for the next start, because {reason}")

    def _write(self, name: _Name, block: Block, used: int) -> None:
        """Write one file, whole or not at all; raises OSError or ResourceError."""
        make_private(self.folder)  # again: it may have been removed since
        header = name.header(block.nbytes)
        n_bytes = _on_disk(_HEADER.size + _CHECKSUM.size + block.nbytes)
        if not self._make_room(n_bytes):
            return
        target = self.folder / name.file
        partial = self.folder / f"{name.file}.{os.getpid()}-{next(_numbers)}"
        data = np.ascontiguousarray(block).data
        try:
            with open(partial, "xb", opener=_open_private) as file:
                file.write(header + _CHECKSUM.pack(zlib.crc32(data, zlib.crc32(header))))
                file.write(data)
            with suppress(OSError):  # then the time of writing it must do
                os.utime(partial, ns=(used, used))
            try:
                os.replace(partial, target)
            except PermissionError:  # Windows: someone reads the same file, which is there then
                if not target.exists():
                    raise
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        self._bytes = (self._bytes or 0) + n_bytes
        self._unseen += n_bytes

    def _make_room(self, n_bytes: int) -> bool:
        """Remove what was not used for longest if need be; False if even that is not enough."""
        if n_bytes > self.max_bytes:
            return False
        if self._bytes is None or self._unseen > self.max_bytes // 32:
            self._look_through()
        if self.bytes + n_bytes > self._limit:
            self._look_through(n_bytes)
        return n_bytes <= self._limit

    def _look_through(self, n_wanted: int = 0) -> None:
        """Add up the files, remove what killed writers left, and the oldest above the limit.

        n_wanted: bytes that must fit as well; room for more is made then, because each time the
        whole folder is looked through.
        """
        found: list[tuple[int, str, int]] = []
        free = 0
        with suppress(OSError), os.scandir(self.folder) as entries:
            free = shutil.disk_usage(self.folder).free
            for entry in entries:
                partial = _PARTIAL.fullmatch(entry.name)
                if partial or _FILE.fullmatch(entry.name):  # what else is here is not ours
                    with suppress(OSError):  # gone by now
                        status = entry.stat(follow_symlinks=False)
                        if partial and time.time() - status.st_mtime > _STALE_S:
                            os.unlink(entry)
                        else:
                            found.append((status.st_mtime_ns, entry.name, status.st_size))
        total = sum(_on_disk(size) for _, _, size in found)
        self._limit = min(self.max_bytes, (total + free) // 2)
        most = min(self._limit - n_wanted, self._limit // 8 * 7) if n_wanted else self._limit
        for _, file, size in sorted(found):
            if total <= most:
                break
            with suppress(OSError):  # Windows: someone reads it
                (self.folder / file).unlink(missing_ok=True)
                total -= _on_disk(size)
        self._bytes, self._unseen = total, 0

    def _read(self, name: _Name) -> Block | None:
        """The block of this name; None where it is not kept, or was damaged and is removed."""
        waiting = self._pending.get(name.file)
        if waiting is not None:
            return waiting[1]
        path = self.folder / name.file
        try:
            block = _read_file(path, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # says nothing of the file
                return None
            block = None
        if block is None:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            with self._changed:
                self.damaged += 1
            if self.damaged == 1:
                self._report(f"{path}: was damaged and is removed; its tokens are computed again")
        return block

    def _touch(self, file: str, used: int, i: int) -> bool:
        """Note that block i of a prompt was used; False if it is not there."""
        path = self.folder / file
        with suppress(OSError):  # not there, or it can only be read
            os.utime(path, ns=(_time_of(used, i),) * 2)
            return True
        return path.exists()


def _time_of(used: int, i: int) -> int:
    """Time of use (ns) of block i: a block goes before those that it cannot be used without."""
    return used - i * 1000


def _on_disk(n_bytes: int) -> int:
    return -(-n_bytes // _SECTOR) * _SECTOR


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _open_plain(path: str, flags: int) -> int:
    """Open neither what a link points to nor, for ever, a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _read_file(path: Path, name: _Name) -> Block | None:
    """The block of a file that is ours, whole and of this name; else None."""
    with open(path, "rb", buffering=0, opener=_open_plain) as file:
        status = os.fstat(file.fileno())
        n_bytes = status.st_size - _HEADER.size - _CHECKSUM.size
        if n_bytes < 0 or not stat.S_ISREG(status.st_mode) or not is_ours(status):
            return None
        header = name.header(n_bytes)
        if file.read(len(header)) != header:
            return None
        checksum = file.read(_CHECKSUM.size)
        block = np.empty(n_bytes, np.uint8)
        if file.readinto(block.data) != n_bytes:
            return None
    whole = checksum == _CHECKSUM.pack(zlib.crc32(block.data, zlib.crc32(header)))
    return block if whole else None
