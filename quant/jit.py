"""`kernel`, the one decorator of compiled code, and the folder its machine code is kept in.

Kernels are compiled when first called and kept on disk. numba's own cache watches only the file of
the function it compiles, not the helpers that were inlined; so the folder's name carries a hash of
every kernel source, the numba version and the tier, and a change of any of them starts a new
folder.

The folder is private to the user, because numba's cache files are pickles: reading one runs it.
"""

import ctypes
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numba

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
    digest = hashlib.sha256(f"{numba.__version__} {sys.version_info[:2]}".encode())
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


def _private(folder: Path) -> bool:
    """Whether the folder exists or can be made, is ours alone, and can be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "geteuid"):
            status = folder.stat()
            shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if status.st_uid != os.geteuid() or shared:
                return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _choose_cache_folder() -> Path | None:
    try:
        folder = _user_cache() / "kernels" / _fingerprint()
    except RuntimeError:  # no home folder
        return None
    return folder if _private(folder) else None


CACHE_FOLDER = _choose_cache_folder()
_settings: Any = numba.config
if CACHE_FOLDER is not None:
    _settings.CACHE_DIR = str(CACHE_FOLDER)
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
kernel: _Decorator = numba.njit(**_OPTIONS)

# A kernel that becomes part of every caller's own loop: a call would pass vectors by memory.
inlined: _Decorator = numba.njit(forceinline=True, **_OPTIONS)


class Entry:
    """A compiled function of int64 arguments, called by address: by another entry, ctypes or C."""

    def __init__(self, function: Callable[..., None], n_arguments: int) -> None:
        self.function = function
        self.signature = numba.void(*[numba.int64] * n_arguments)

    @property
    def name(self) -> str:
        return f"{self.function.__module__.rpartition('.')[2]}.{self.function.__name__}"

    def is_cached(self) -> bool:
        """Whether its machine code is at hand already, in memory or on disk."""
        if "compiled" in self.__dict__:
            return True
        return CACHE_FOLDER is not None and any(CACHE_FOLDER.glob(f"*/{self.name}-*.nbi"))

    @cached_property
    def compiled(self) -> Any:
        # only of our own sources does the folder's name carry the hash
        ours = self.function.__module__.partition(".")[0] == _PACKAGE
        keep = ours and CACHE_FOLDER is not None
        return numba.cfunc(self.signature, cache=keep, **_OPTIONS)(self.function)

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
