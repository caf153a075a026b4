"""Conversations in files: what comes back, what is refused, and that nothing said is ever lost."""

import errno
import json
import os
import random
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama.errors import InvalidRequest, ResourceError
from edgellama.saved_chats import (
    LAST,
    SavedChat,
    chats_folder,
    check_name,
    delete_chat,
    list_chats,
    load_chat,
    save_chat,
)

POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes of POSIX")


def chat_of(*texts: str, **fields: Any) -> SavedChat:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return SavedChat(messages, **fields)  # type: ignore[arg-type]


def test_a_conversation_comes_back_as_it_was(tmp_path: Path) -> None:
    chat = chat_of(
        "Grüße, 世界 🦙",
        'He said: "\\n"\r\n\x00',
        "a byte that is no text: \udcff",
        system="Be brief.",
        settings={"temperature": 0.5, "stop": ["a"], "seed": None},
        model_name="Llama 3.2 1B",
        model_path="/models/llama.gguf",
    )
    before = datetime.now(UTC)
    path = save_chat("talk", chat, folder=tmp_path)
    found = load_chat("talk", folder=tmp_path)
    assert replace(found, updated=chat.updated) == chat
    assert before <= found.updated <= datetime.now(UTC)
    assert "世界" in path.read_text(encoding="utf-8", errors="surrogatepass")


def test_messages_with_tools_come_back_too(tmp_path: Path) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chat = SavedChat(
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": [{"type": "text", "text": "4"}], "tool_call_id": "a"},
        ]  # type: ignore[list-item, typeddict-unknown-key]
    )
    save_chat("tools", chat, folder=tmp_path)
    assert load_chat("tools", folder=tmp_path).messages == chat.messages


def test_a_conversation_that_went_on_takes_its_own_place(tmp_path: Path) -> None:
    chat = chat_of("hi", "hello")
    save_chat("talk", chat, folder=tmp_path)
    loaded = load_chat("talk", folder=tmp_path)
    save_chat("talk", replace(loaded, messages=[]), folder=tmp_path)
    assert load_chat("talk", folder=tmp_path).messages == []
    assert len(list(tmp_path.iterdir())) == 1


def test_another_conversation_is_never_replaced(tmp_path: Path) -> None:
    save_chat("talk", chat_of("one"), folder=tmp_path)
    with pytest.raises(InvalidRequest, match=r"'talk' is another conversation, of 20.*delete"):
        save_chat("talk", chat_of("two"), folder=tmp_path)
    assert load_chat("talk", folder=tmp_path).messages[0]["content"] == "one"
    delete_chat("talk", folder=tmp_path)
    save_chat("talk", chat_of("two"), folder=tmp_path)


def test_what_is_saved_is_for_the_user_alone(tmp_path: Path) -> None:
    path = save_chat("talk", chat_of("secret"), folder=tmp_path / "a" / "chats")
    if hasattr(os, "geteuid"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_list_has_the_most_recently_saved_first(tmp_path: Path) -> None:
    assert list_chats(folder=tmp_path / "none") == {}
    first = chat_of("1")
    save_chat("first", first, folder=tmp_path)
    save_chat("second", chat_of("2"), folder=tmp_path)
    assert list(list_chats(folder=tmp_path)) == ["second", "first"]
    save_chat("first", first, folder=tmp_path)
    (tmp_path / "damaged.json").write_text("{")
    (tmp_path / "notes.txt").write_text("not ours")
    assert list(list_chats(folder=tmp_path)) == ["first", "second"]


def test_an_unknown_name_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no chat named 'talk'; none was saved yet"):
        load_chat("talk", folder=tmp_path)
    save_chat("walk", chat_of("hi"), folder=tmp_path)
    save_chat(LAST, chat_of("hi"), folder=tmp_path)
    for use in (load_chat, delete_chat):
        with pytest.raises(InvalidRequest, match=r"no chat named 'talk'; saved are walk$"):
            use("talk", folder=tmp_path)


def let_clock_tick(folder: Path) -> None:
    """Wait until a file that is written now is younger than all there are: a tick takes 1 to 16 ms,
    on a machine that is busy with others longer."""

    def now_ns() -> int:
        with tempfile.TemporaryFile(dir=folder.parent) as file:
            return os.fstat(file.fileno()).st_mtime_ns

    begun = now_ns()
    while now_ns() == begun:
        time.sleep(0.001)


def test_last_is_the_conversation_saved_last(tmp_path: Path) -> None:
    """Two that go on at the same time do not meet."""
    with pytest.raises(InvalidRequest, match="no last conversation yet"):
        load_chat(LAST, folder=tmp_path)
    one, other = chat_of("one"), chat_of("other")
    for chat in (one, other, one):
        save_chat(LAST, chat, folder=tmp_path)
        let_clock_tick(tmp_path)
    assert load_chat(LAST, folder=tmp_path).messages == one.messages
    assert len(list_chats(folder=tmp_path)) == 2
    # each can be asked for by the name under which it is listed, and goes on there
    name = list(list_chats(folder=tmp_path))[1]
    assert load_chat(name, folder=tmp_path).messages == other.messages
    save_chat(name, other, folder=tmp_path)
    delete_chat(LAST, folder=tmp_path)
    assert load_chat(LAST, folder=tmp_path).messages == one.messages


def test_a_name_that_only_begins_like_it_is_not_the_last(tmp_path: Path) -> None:
    save_chat(LAST, chat_of("running"), folder=tmp_path)
    save_chat("last-week", chat_of("done"), folder=tmp_path)
    assert load_chat(LAST, folder=tmp_path).messages[0]["content"] == "running"


def test_of_running_conversations_the_latest_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgellama.saved_chats.MAX_LAST", 3)
    save_chat("named", chat_of("n"), folder=tmp_path)
    for i in range(5):
        save_chat(LAST, chat_of(str(i)), folder=tmp_path)
        let_clock_tick(tmp_path)
    kept = [chat.messages[0]["content"] for chat in list_chats(folder=tmp_path).values()]
    assert kept == ["4", "3", "2", "n"]


GOOD = {
    "edgellama_chat": 1,
    "created": "2026-01-02T03:04:05.000006+00:00",
    "updated": "2026-01-02T03:04:05.000006+00:00",
    "model": {"name": "m", "path": "p"},
    "system": "",
    "settings": {},
    "messages": [{"role": "user", "content": "hi"}],
}
DAMAGED = {
    "empty": b"",
    "cut": json.dumps(GOOD).encode()[:-20],
    "zeros": bytes(500),
    "not UTF-8": json.dumps(GOOD).encode().replace(b"hi", b"\xff\xfe"),
    "not an object": b"[1, 2]",
    "another file": b'{"a": 1}',
    "a huge number": b"1" * 5000,
    "nested too deeply": b"[" * 100_000,
    "version of another type": json.dumps(GOOD | {"edgellama_chat": "1"}).encode(),
    **{
        f"{key} is {value!r}": json.dumps(GOOD | {key: value}).encode()
        for key, value in (
            ("messages", "hi"),
            ("messages", ["hi"]),
            ("messages", [{"content": "hi"}]),
            ("messages", [{"role": "user", "content": 5}]),
            ("system", None),
            ("settings", []),
            ("model", None),
            ("created", "yesterday"),
            ("created", "2026-01-02T03:04:05"),
            ("updated", 5),
        )
    },
    **{
        f"no {key}": json.dumps({k: v for k, v in GOOD.items() if k != key}).encode()
        for key in GOOD
    },
}


def test_a_file_written_by_hand_is_read(tmp_path: Path) -> None:
    """With the byte order mark of some editors, too."""
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert load_chat("a", folder=tmp_path).messages == GOOD["messages"]


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_moved_aside_and_never_deleted(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "talk.json").write_bytes(data)
    with pytest.raises(ResourceError, match=r"talk\.json: is damaged \(.*moved aside"):
        load_chat("talk", folder=tmp_path)
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("talk.json.damaged-")
    assert aside.read_bytes() == data
    with pytest.raises(InvalidRequest, match="no chat named"):
        load_chat("talk", folder=tmp_path)


def test_saving_over_a_damaged_file_keeps_it_too(tmp_path: Path) -> None:
    (tmp_path / "talk.json").write_bytes(b"half")
    save_chat("talk", chat_of("hi"), folder=tmp_path)
    assert load_chat("talk", folder=tmp_path).messages[0]["content"] == "hi"
    assert [p.read_bytes() for p in tmp_path.glob("*.damaged-*")] == [b"half"]


def test_behind_a_damaged_last_one_is_the_one_before(tmp_path: Path) -> None:
    save_chat(LAST, chat_of("before"), folder=tmp_path)
    let_clock_tick(tmp_path)
    save_chat(LAST, chat_of("latest"), folder=tmp_path).write_bytes(b"")
    with pytest.raises(ResourceError, match="moved aside"):
        load_chat(LAST, folder=tmp_path)
    assert load_chat(LAST, folder=tmp_path).messages[0]["content"] == "before"


def test_a_file_of_a_later_version_is_refused_in_words_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(GOOD | {"edgellama_chat": 2}))
    for use in (load_chat, lambda name, folder: save_chat(name, chat_of("hi"), folder=folder)):
        with pytest.raises(ResourceError, match="of version 2, this edgellama reads version 1"):
            use("talk", folder=tmp_path)
    assert json.loads(path.read_text())["edgellama_chat"] == 2


def test_what_is_no_conversation_by_its_size_or_kind_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgellama.saved_chats.MAX_FILE_BYTES", 10)
    (tmp_path / "big.json").write_bytes(bytes(11))
    (tmp_path / "folder.json").mkdir()
    for name in ("big", "folder"):
        with pytest.raises(ResourceError, match="no conversation is"):
            load_chat(name, folder=tmp_path)


@POSIX
def test_a_pipe_in_the_folder_does_not_make_anyone_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "talk.json")
    assert list_chats(folder=tmp_path) == {}
    with pytest.raises(ResourceError, match="no file at all"):
        load_chat("talk", folder=tmp_path)


@pytest.mark.parametrize("operation", ["open", "fsync", "replace"])
def test_a_failing_disk_leaves_what_was_saved_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    chat = chat_of("before")
    save_chat("talk", chat, folder=tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, full)
        with pytest.raises(ResourceError, match=r"talk\.json: .*cannot be saved: the disk is full"):
            save_chat("talk", replace(chat, messages=[]), folder=tmp_path)
    assert load_chat("talk", folder=tmp_path).messages == chat.messages
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "chats"):
        with pytest.raises(ResourceError, match="cannot be saved"):
            save_chat("talk", chat_of("hi"), folder=folder)


def test_what_killed_writers_left_is_swept_away_when_it_is_old(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in (".a.json.1-1", ".a.json.2-2", ".b.json.1-1"))
    for path in (old, young, other):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - (0 if path == young else 3600),) * 2)
    save_chat("a", chat_of("hi"), folder=tmp_path)
    assert [path.exists() for path in (old, young, other)] == [False, True, True]
    assert list(list_chats(folder=tmp_path)) == ["a"]


# A conversation that goes on for ever, turn by turn, and says of each turn that it is saved.
TALKER = """
import sys
from dataclasses import replace
from pathlib import Path
from edgellama.saved_chats import SavedChat, save_chat
chat = SavedChat([])
while True:
    number = len(chat.messages)
    chat = replace(chat, messages=[*chat.messages, {"role": "user", "content": f"{number} " * 500}])
    save_chat(sys.argv[2], chat, folder=Path(sys.argv[1]))
    print(number, flush=True)
"""


@pytest.mark.parametrize("name", ["talk", LAST])
def test_kill_at_any_moment_loses_no_turn_that_was_saved(tmp_path: Path, name: str) -> None:
    """SIGKILL (TerminateProcess on Windows) at a random moment of one talker after the other."""
    moment = random.Random(0)
    for i in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", TALKER, str(tmp_path / str(i)), name],
            stdout=subprocess.PIPE,
            text=True,
        ) as talker:
            assert talker.stdout is not None
            talker.stdout.readline()
            time.sleep(moment.uniform(0, 0.1))
            talker.kill()
            said = talker.stdout.read().splitlines()
        n_saved = int(said[-1]) + 1 if said else 1
        messages = load_chat(name, folder=tmp_path / str(i)).messages
        assert len(messages) in (n_saved, n_saved + 1)  # the last was saved and not yet said
        assert [m["content"] for m in messages] == [f"{n} " * 500 for n in range(len(messages))]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "C:x", ".hidden", "-rf", " a", "a ", "a.",
     "CON", "nul", "com1", "LPT9.txt", "con .x", "COM¹", "a\0b", "a\nb", "a*", "~", "a" * 201,
     "é" * 101, "\ud800"],
)  # fmt: skip
def test_a_name_that_is_no_file_name_somewhere_is_refused(tmp_path: Path, name: str) -> None:
    for use in (load_chat, delete_chat):
        with pytest.raises(InvalidRequest):
            use(name, folder=tmp_path)
    with pytest.raises(InvalidRequest):
        save_chat(name, chat_of("hi"), folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["a", "My chat 2", "v1.2-final_b", "рецепты", "日本", "हिन्दी", "Last"]
)
def test_names_of_any_script_are_kept(tmp_path: Path, name: str) -> None:
    save_chat(name, chat_of(name), folder=tmp_path)
    assert list(list_chats(folder=tmp_path)) == [name]
    assert load_chat(name, folder=tmp_path).messages[0]["content"] == name


def test_a_name_is_the_same_however_its_accents_were_typed() -> None:
    assert check_name("cafe\u0301") == check_name("caf\u00e9") == "caf\u00e9"


@given(st.text(max_size=20) | st.text(alphabet="aZ09 .-_/\\:cCoOnN\u0301é", max_size=8))
def test_any_text_is_refused_or_stays_a_plain_name_on_every_system(name: str) -> None:
    try:
        checked = check_name(name)
    except InvalidRequest:
        return
    assert check_name(checked) == checked
    assert Path(checked).name == checked
    windows = PureWindowsPath(f"{checked}.json")
    assert windows.name == f"{checked}.json"
    assert not windows.is_reserved() if sys.version_info < (3, 13) else True
    assert not checked.startswith((".", "-"))
    checked.encode()


def test_the_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGELLAMA_DATA_DIR", str(tmp_path))
    assert chats_folder() == tmp_path / "chats"
    save_chat("talk", chat_of("hi"))
    assert (tmp_path / "chats" / "talk.json").exists()
    monkeypatch.delenv("EDGELLAMA_DATA_DIR")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert chats_folder() == tmp_path / "edgellama" / "chats"
