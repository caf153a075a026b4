"""The folder that machine code is kept in: found, refused, swept.

Its name carries a hash of all that the code depends on: every kernel source, numba, LLVM, the tier
and the CPU. A change of any of them starts a new folder; those of before are removed when they have
not been used for a month. Processes share it; files appear in it whole, and two that compile the
same kernel at once write the same.

The folder is private to the user, because what lies in it is run. What cannot be read there is
thrown away and compiled again; what cannot be written is compiled each time.
"""

import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import llvmlite
from llvmlite import binding

from .simd.cpu import bounded, current_tier

CACHE_ENVIRONMENT = "EDGELLAMA_CACHE_DIR"
UNUSED_DAYS = 30
_PACKAGE = __name__.partition(".")[0]


def _kernel_sources() -> Iterator[Path]:
    """All of this package, each module beside it that defines kernels, and what those import."""
    here = Path(__file__).parent
    yield from sorted(here.rglob("*.py"))
    for folder in map(Path, getattr(sys.modules[_PACKAGE], "__path__", [])):
        texts = {path: path.read_bytes() for path in sorted(folder.glob("*.py"))}
        kernels = [text for text in texts.values() if b"quant.jit import" in text]
        imported = set(re.findall(rb"\nfrom \.(\w+) import", b"".join(kernels)))
        for path, text in texts.items():
            if text in kernels or path.stem.encode() in imported:
                yield path


def _numba_version() -> bytes:
    """What tells one numba from another, without importing it if that can be."""
    spec = find_spec("numba")
    try:
        return (Path(spec.origin or "").parent / "_version.py").read_bytes() if spec else b""
    except OSError:  # part of an app, where modules are no files
        import numba

        return bytes(numba.__version__.encode())


def _cpu() -> str:
    """What LLVM makes code for, as numba asks it to."""
    if bounded():
        return f"{current_tier().cpu} {current_tier().features}"
    name = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    return f"{name} {features or binding.get_host_cpu_features().flatten()}"


def _fingerprint() -> str:
    words = llvmlite.__version__, sys.version_info[:2], binding.get_process_triple(), _cpu()
    digest = hashlib.sha256(_numba_version() + repr(words).encode())
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
            os.utime(folder)  # it is used
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


def sweep(kernels: Path) -> None:
    """Remove the folders in `kernels` that no process has begun with for UNUSED_DAYS.

    Each is renamed first, so that whoever begins with it now finds a whole one or none. A process
    that has had one for so long compiles what it has not loaded yet.
    """
    for folder in list(kernels.iterdir()):
        with suppress(OSError):  # another process was quicker
            unused = time.time() - folder.lstat().st_mtime > UNUSED_DAYS * 24 * 3600
            if unused and re.fullmatch(r"[0-9a-f]{16}-[\w-]+(\.old)?", folder.name):
                old = folder.with_name(folder.name.removesuffix(".old") + ".old")
                folder.rename(old)
                shutil.rmtree(old, ignore_errors=True)


CACHE_FOLDER, CACHE_REFUSAL = _choose_cache_folder()
