"""Where files of the user lie: what can be made again (the cache) and what cannot (the data).

The cache folder is the one of quant/cache_folder.py, which may import nothing from here.
"""

import os
import stat
import sys
from pathlib import Path

from .errors import ResourceError

CACHE_ENVIRONMENT = "EDGELLAMA_CACHE_DIR"
DATA_ENVIRONMENT = "EDGELLAMA_DATA_DIR"


def cache_folder() -> Path:
    """The folder of what can be made again; it need not be there yet."""
    if chosen := os.environ.get(CACHE_ENVIRONMENT):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData/Local") / "edgellama"
    if sys.platform == "darwin":
        return _home() / "Library/Caches/edgellama"
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "edgellama"


def data_folder() -> Path:
    """The folder of what the user has made, such as conversations; it need not be there yet."""
    if chosen := os.environ.get(DATA_ENVIRONMENT):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or _home() / "AppData/Roaming") / "edgellama"
    if sys.platform == "darwin":
        return _home() / "Library/Application Support/edgellama"
    return Path(os.environ.get("XDG_DATA_HOME") or _home() / ".local/share") / "edgellama"


def make_private(folder: Path) -> None:
    """Make the folder, for this user alone, or see that no one else can write to it.

    Raises ResourceError, in words, for a folder that cannot be made, is another user's, or may be
    written by others.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ResourceError(f"{folder}: {error.strerror}") from error
    if not is_ours(status):
        raise ResourceError(f"{folder} belongs to another user")
    if hasattr(os, "geteuid") and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ResourceError(f"{folder} can be written by others (chmod go-w mends it)")


def is_ours(status: os.stat_result) -> bool:
    """Whether a file is this user's; on Windows what lies in a user's folder is the user's."""
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise ResourceError(
            f"there is no home folder; set {CACHE_ENVIRONMENT} and {DATA_ENVIRONMENT} to folders"
            " of your own"
        ) from None
