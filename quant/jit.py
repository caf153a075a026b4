"""The decorators of compiled code, and the folder its machine code is kept in.

Kernels are compiled when first called and kept on disk. numba's own cache watches only the file of
the function it compiles, not the helpers that were inlined; so the folder's name carries a hash of
every kernel source, the numba version and the tier, and a change of any of them starts a new
folder. Processes share it; files appear in it whole, and two that compile the same kernel at once
write the same.

The folder is private to the user, because numba's cache files are pickles: reading one runs it.
What cannot be read there is thrown away and compiled again; what cannot be written is compiled each
time.
"""

import ctypes
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import llvmlite
import numba
import numba.core.errors

from .kernel_compiler import EntryCompiler, KernelCompiler
from .second_compiler import second_compiler
from .simd.cpu import bounded, current_tier

CACHE_ENVIRONMENT = "EDGELLAMA_CACHE_DIR"
_Function = TypeVar("_Function", bound=Callable[..., Any])
_PACKAGE = __name__.partition(".")[0]


def _kernel_sources() -> Iterator[Path]:
    """All of this package, and each module beside it that defines kernels."""
    here = Path(__file__).parent
    yield from sorted(here.rglob("*.py"))
    for folder in getattr(sys.modules[_PACKAGE], "__path__", []):
        for path in sorted(Path(folder).glob("*.py")):
            if b"quant.jit import" in path.read_bytes():
                yield path


def _fingerprint() -> str:
    digest = hashlib.sha256(
        f"{numba.__version__} {llvmlite.__version__} {sys.version_info[:2]}".encode()
    )
    for path in _kernel_sources():
        digest.update(path.read_bytes())
    return f"{digest.hexdigest()[:16]}-{current_tier().name}"


def _user_cache() -> Path:
    if chosen := os.environ.get(CACHE_ENVIRONMENT):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "edgellama"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/edgellama"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgellama"


def _why_not(folder: Path) -> str | None:
    """Why machine code cannot be kept in this folder, made if need be; None if it can."""
    try:
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        # who can write to the folder above can put another one in this one's place
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, exist_ok=True)
            if reason := _not_ours(each):
                return reason
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"{folder}: {error.strerror}"


def _not_ours(folder: Path) -> str | None:
    if not hasattr(os, "geteuid"):  # Windows: what lies in a user's own folder is the user's
        return None
    status = folder.stat()
    if status.st_uid != os.geteuid():
        return f"{folder} belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{folder} can be written by others (chmod go-w mends it)"
    return None


def _choose_cache_folder() -> tuple[Path | None, str]:
    """The folder, or None and why there is none."""
    try:
        folder = _user_cache() / "kernels" / _fingerprint()
    except RuntimeError:
        return None, "there is no home folder"
    reason = _why_not(folder)
    return (None, reason) if reason else (folder, "")


CACHE_FOLDER, CACHE_REFUSAL = _choose_cache_folder()
_settings: Any = numba.config
if bounded():
    _settings.CPU_NAME = current_tier().cpu
    _settings.CPU_FEATURES = current_tier().features

# No fastmath: sums keep the order in which they are written, so that results do not depend on how a
# batch is cut, on the number of threads, or on what the compiler finds convenient.
_OPTIONS: Any = {"nogil": True, "error_model": "numpy"}


class _Decorator(Protocol):
    """Leaves the type of a function as it is."""

    def __call__(self, function: _Function, /) -> _Function: ...


# A kernel is compiled into whoever calls it; only the entries, which Python calls by their address,
# are kept on disk.
_PART: Any = {
    **_OPTIONS, "pipeline_class": KernelCompiler, "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}  # fmt: skip
kernel: _Decorator = numba.njit(**_PART)

# A kernel that becomes part of every caller's own loop: a call would pass vectors by memory.
inlined: _Decorator = numba.njit(forceinline=True, **_PART)


class Entry:
    """A compiled function of int64 arguments, called by address: by another entry, ctypes or C."""

    def __init__(self, function: Callable[..., None], n_arguments: int) -> None:
        self.function = function
        self.signature = numba.void(*[numba.int64] * n_arguments)

    @property
    def name(self) -> str:
        return f"{self.function.__module__.rpartition('.')[2]}.{self.function.__name__}"

    def is_cached(self, *, on_disk: bool = False) -> bool:
        """Whether its machine code is at hand already, in memory or on disk."""
        if "compiled" in self.__dict__ and not on_disk:
            return True
        return any(path.suffix == ".nbi" for path in self._cache_files())

    @cached_property
    def compiled(self) -> Any:
        # only of our own sources does the folder's name carry the hash
        if CACHE_FOLDER is None or self.function.__module__.partition(".")[0] != _PACKAGE:
            return self._compile(keep=False)
        try:
            return self._compile(keep=True)
        except numba.core.errors.NumbaError:
            raise  # ours
        except OSError:  # the disk is full, or the folder was removed
            return self._compile(keep=False)
        except Exception:  # the files are damaged: what reading a pickle then raises, nobody knows
            return self._compile_anew()

    def _compile_anew(self) -> Any:
        try:
            for path in self._cache_files():
                path.unlink(missing_ok=True)
            return self._compile(keep=True)
        except OSError:
            return self._compile(keep=False)

    def _compile(self, *, keep: bool) -> Any:
        # numba asks for its folder in this call: what else uses numba in this process keeps its own
        before = _settings.CACHE_DIR
        _settings.CACHE_DIR = str(CACHE_FOLDER) if keep else before
        try:
            return numba.cfunc(
                self.signature, cache=keep, pipeline_class=EntryCompiler, **_OPTIONS
            )(self.function)
        finally:
            _settings.CACHE_DIR = before

    def _cache_files(self) -> list[Path]:
        if CACHE_FOLDER is None:
            return []
        return list(CACHE_FOLDER.glob(f"*/{self.name}-*.nb[ic]"))  # an index and what it lists

    @property
    def address(self) -> int:
        """Where its machine code is; compiled, or read from the cache, when first asked for."""
        return int(self.compiled.address)

    @cached_property
    def call(self) -> Callable[..., None]:
        """The entry as a Python callable that releases the GIL while it runs."""
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(self.signature.args))
        return kind(self.address)


def entry(function: Callable[..., None]) -> Entry:
    """Make an entry of a function whose arguments are all int64 (sizes and addresses)."""
    return Entry(function, function.__code__.co_argcount)


def compile_entries(entries: Iterable[Entry], progress: Callable[[str], None] | None) -> int:
    """Have entries compiled, or read from the cache; how many had to be compiled.

    progress is told, in words, of each that takes time, and once if none of it can be kept.
    """
    entries = dict.fromkeys(entries)  # formats share some
    missing = [entry for entry in entries if not entry.is_cached()]
    if missing and progress is not None and CACHE_FOLDER is None:
        progress(
            f"kernels are compiled at every start, because {CACHE_REFUSAL}; set {CACHE_ENVIRONMENT}"
            " to a folder of your own"
        )
    ours = [e for e in missing if e.function.__module__.partition(".")[0] == _PACKAGE]
    with second_compiler(ours if CACHE_FOLDER is not None else []):
        for entry in entries:
            if progress is not None and entry in missing and not entry.is_cached():
                number = f"{missing.index(entry) + 1} of {len(missing)}"
                once = "" if CACHE_FOLDER is None else ", once"
                progress(f"compiling for this CPU{once}: {entry.name} ({number})")
            _ = entry.address
    return len(missing)
