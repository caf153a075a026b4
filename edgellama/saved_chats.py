"""Conversations in files: one JSON file a conversation, to be read by people as well.

    {"edgellama_chat": 1, "created": TIME, "updated": TIME, "model": {"name": ..., "path": ...},
     "system": "...", "settings": {...}, "messages": [{"role": ..., "content": ...}, ...]}

Times are ISO 8601 with their zone. Keys and values are not here: they come back through the store
of prefixes, or are computed again.

A file is replaced whole, and flushed to the disk before: whatever happens, its name holds what was
saved last or what was saved before. Nothing that cannot be read is deleted; it is moved aside. A
conversation is told from others by when it was begun, and never replaces another.

`last` is the conversation saved most recently under that name; each has a file of its own, so that
two that go on at the same time do not meet. The latest MAX_LAST of them are kept.
"""

import json
import os
import re
import stat
import threading
import time
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InvalidRequest, ResourceError
from .folders import data_folder

if TYPE_CHECKING:  # shell completion lists names, and must not wait for a tokenizer
    from .chat import Message

VERSION = 1
LAST = "last"
MAX_LAST = 100
MAX_NAME_BYTES = 200  # of 255 that a file's name may have
MAX_FILE_BYTES = 64 << 20

_SUFFIX = ".json"
_VERSION_KEY = "edgellama_chat"
_LAST_FILE = re.compile(rf"{LAST}-\d{{8}}-\d{{6}}-\d{{6}}\.json")
_STALE_S = 600.0  # a partial file of this age is no one's
_RESERVED = {"con", "prn", "aux", "nul"} | {
    f"{d}{n}" for d in ("com", "lpt") for n in "0123456789¹²³"
}


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class SavedChat:
    """A conversation as it is kept; `dataclasses.replace` makes the next state of the same one."""

    messages: "list[Message]"  # without the system prompt
    system: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # anything that JSON can say
    model_name: str = ""
    model_path: str = ""
    created: datetime = field(default_factory=_now)  # with its zone; says which conversation it is
    updated: datetime = field(default_factory=_now)  # set anew by save_chat


def chats_folder() -> Path:
    """Where conversations are kept; it need not be there yet. Raises ResourceError without home."""
    return data_folder() / "chats"


def save_chat(name: str, chat: SavedChat, *, folder: Path | None = None) -> Path:
    """Keep the conversation under this name; the file, which is safe on the disk then.

    Saved again, a conversation takes its own former place. Raises InvalidRequest for a name that
    cannot be a file's on every system, or that another conversation has; ResourceError, and leaves
    what was there, when the disk is full or fails.
    """
    folder = folder or chats_folder()
    _check_fields(chat)
    if name == LAST:
        path = folder / f"{LAST}-{chat.created.astimezone(UTC):%Y%m%d-%H%M%S-%f}{_SUFFIX}"
    else:
        path = _path(name, folder)
        _check_same(name, chat, path)
    _replace_file(path, _to_json(replace(chat, updated=_now())))
    if name == LAST:
        for old in _last_ones(folder)[MAX_LAST:]:
            with suppress(OSError):
                old.unlink()
    return path


def load_chat(name: str, *, folder: Path | None = None) -> SavedChat:
    """The conversation of this name; `last` is the latest that was saved as such.

    Raises InvalidRequest when there is none, ResourceError when it cannot be read: a damaged file
    has been moved aside then, one of a later version is left alone.
    """
    folder = folder or chats_folder()
    path = _find(name, folder)
    try:
        return _read(path)
    except FileNotFoundError:
        raise _unknown(name, folder) from None
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        aside = _move_aside(path)
        raise ResourceError(
            f"{path}: is damaged ({error}); it was moved aside, to {aside.name}"
        ) from error


def list_chats(*, folder: Path | None = None) -> dict[str, SavedChat]:
    """All that can be read, by name, the most recently saved first."""
    found: dict[str, SavedChat] = {}
    for path in _files(folder or chats_folder()):
        with suppress(OSError, ValueError, ResourceError):
            found[path.name.removesuffix(_SUFFIX)] = _read(path)
    return dict(sorted(found.items(), key=lambda item: item[1].updated, reverse=True))


def delete_chat(name: str, *, folder: Path | None = None) -> None:
    """Remove a conversation. Raises InvalidRequest when there is none of this name."""
    folder = folder or chats_folder()
    path = _find(name, folder)
    try:
        path.unlink()
    except FileNotFoundError:
        raise _unknown(name, folder) from None
    except OSError as error:
        raise ResourceError(f"{path}: cannot be removed: {error.strerror}") from error


def check_name(name: str) -> str:
    """The name in the form in which it is kept, if it can be a file's on every system.

    Letters, digits and, between them, spaces, dots, - and _, of any script. Raises InvalidRequest.
    """
    name = unicodedata.normalize("NFC", name)
    if not name or not all(_is_letter(c) or c in " .-_" for c in name):
        raise InvalidRequest(
            f"{name!r} cannot be the name of a chat; use letters, digits, spaces, '.', '-' and '_'"
        )
    if not _is_letter(name[0]) or name[-1] in " .":
        raise InvalidRequest(
            f"{name!r} cannot be the name of a chat; it must begin with a letter or digit, and not"
            " end with a space or dot"
        )
    if name.split(".")[0].rstrip().lower() in _RESERVED:
        raise InvalidRequest(f"{name!r} is a device on Windows; choose another name")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidRequest(f"a name may have {MAX_NAME_BYTES} bytes, this has more: {name[:40]}…")
    return name


def _is_letter(c: str) -> bool:
    return unicodedata.category(c)[0] in "LMN"  # letters, their marks, numbers


def _path(name: str, folder: Path) -> Path:
    return folder / f"{check_name(name)}{_SUFFIX}"


def _find(name: str, folder: Path) -> Path:
    if name != LAST:
        return _path(name, folder)
    if latest := _last_ones(folder):
        return latest[0]
    raise InvalidRequest("there is no last conversation yet")


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name.endswith(_SUFFIX)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be read: {error.strerror}") from error


def _last_ones(folder: Path) -> list[Path]:
    """Files of conversations saved as `last`, the most recently saved first."""
    found = []
    for path in _files(folder):
        if _LAST_FILE.fullmatch(path.name):
            with suppress(OSError):  # another process has just removed it
                found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]


def _unknown(name: str, folder: Path) -> InvalidRequest:
    names = [n for n in list_chats(folder=folder) if not _LAST_FILE.fullmatch(n + _SUFFIX)]
    known = f"saved are {', '.join(names[:10])}" if names else "none was saved yet"
    return InvalidRequest(f"there is no chat named {name!r}; {known}")


def _check_same(name: str, chat: SavedChat, path: Path) -> None:
    """Refuse to replace another conversation."""
    if not path.exists():
        return
    try:
        there = load_chat(name, folder=path.parent)
    except ResourceError:
        if path.exists():
            raise
        return  # damaged, and out of the way now
    if there.created != chat.created:
        raise InvalidRequest(
            f"{name!r} is another conversation, of {there.updated.astimezone():%Y-%m-%d %H:%M};"
            " choose another name, or delete that one first"
        )


def _to_json(chat: SavedChat) -> bytes:
    document = {
        _VERSION_KEY: VERSION,
        "created": chat.created.isoformat(),
        "updated": chat.updated.isoformat(),
        "model": {"name": chat.model_name, "path": chat.model_path},
        "system": chat.system,
        "settings": chat.settings,
        "messages": chat.messages,
    }
    # Half of a surrogate pair, as terminals pass on bytes that are no text, stays what it is.
    return json.dumps(document, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _read(path: Path) -> SavedChat:
    """Raises ValueError for what is no conversation, ResourceError for what is not ours to read."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
        raise ResourceError(
            f"{path}: is {status.st_size:,} bytes, or no file at all; no conversation is"
        )
    try:
        document = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    version = document.get(_VERSION_KEY) if isinstance(document, dict) else None
    if type(version) is not int:
        raise ValueError("not a conversation")
    if version != VERSION:
        raise ResourceError(
            f"{path}: is of version {version}, this edgellama reads version {VERSION}; it was saved"
            " by a later one"
        )
    try:
        chat = SavedChat(
            messages=document["messages"],
            system=document["system"],
            settings=document["settings"],
            model_name=document["model"]["name"],
            model_path=document["model"]["path"],
            created=datetime.fromisoformat(document["created"]),
            updated=datetime.fromisoformat(document["updated"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a whole conversation: {error}") from None
    _check_fields(chat)
    return chat


def _check_fields(chat: SavedChat) -> None:
    texts = (chat.system, chat.model_name, chat.model_path)
    if not all(isinstance(text, str) for text in texts) or not isinstance(chat.settings, dict):
        raise ValueError("a field is of another type than it should be")
    if not chat.created.tzinfo or not chat.updated.tzinfo:
        raise ValueError("a time is without its zone")
    if not isinstance(chat.messages, list):
        raise ValueError("the messages are not a list")
    for message in chat.messages:
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("role"), str)
            or not isinstance(message.get("content"), str | list | None)
        ):
            raise ValueError("a message has no role, or content that is no text")


def _move_aside(path: Path) -> Path:
    """Give a damaged file another name, which no conversation can have."""
    aside = path.with_name(f"{path.name}.damaged-{_now():%Y%m%d-%H%M%S-%f}")
    try:
        path.rename(aside)
    except OSError as error:
        raise ResourceError(
            f"{path}: is damaged, and cannot be moved aside: {error.strerror}"
        ) from error
    return aside


def _replace_file(path: Path, data: bytes) -> None:
    """Write a file for this user alone; on the disk, and under its name, whole or not at all."""
    beginning = f".{path.name}."  # no chat begins with a dot
    partial = path.with_name(f"{beginning}{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        for left in path.parent.glob(f"{beginning}*"):  # by killed processes
            with suppress(FileNotFoundError):  # another process has swept it
                if time.time() - left.stat().st_mtime > _STALE_S:
                    left.unlink()
        try:
            with open(partial, "xb", opener=_open_private) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise ResourceError(
            f"{path}: the conversation cannot be saved: {error.strerror}"
        ) from error


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where folders can be opened (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
