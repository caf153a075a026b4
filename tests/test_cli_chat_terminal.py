"""`edgellama chat` as one meets it: by keys, on a terminal, from the first word to the goodbye."""

import json
import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from terminal import Terminal

OPTIONS = ["--backend", "reference", "--chat-format", "alpaca", "--temp", "0"]
CTRL_C, CTRL_D, UP, ALT_ENTER, TAB = "\x03", "\x04", "\x1b[A", "\x1b\r", "\t"
Open = Callable[..., Terminal]


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def chat(data_folder: Path) -> Iterator[Open]:
    """chat(MODEL, option, ..., columns=, lines=, environment=) -> a Terminal at its prompt."""
    opened: list[Terminal] = []

    def open_one(
        *arguments: object, environment: dict[str, str] | None = None, prompt: str = "", **size: int
    ) -> Terminal:
        own = {"EDGELLAMA_DATA_DIR": str(data_folder)}
        terminal = Terminal(
            "chat", *OPTIONS, *arguments, environment=own | (environment or {}), **size
        )
        opened.append(terminal)
        if prompt:
            terminal.wait_for(prompt)
        else:
            terminal.wait_for_prompt()
        return terminal

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture(scope="module")
def endless_model(
    tmp_path_factory: pytest.TempPathFactory, write_tiny_llama: Callable[..., Path]
) -> Path:
    """A model with so much context that an answer lasts until it is stopped."""
    return write_tiny_llama(
        tmp_path_factory.mktemp("endless") / "endless.gguf", context_length=2**20
    )


def last_saved(data_folder: Path) -> list[dict[str, str]]:
    """The messages of the conversation that was kept last."""
    files = sorted((data_folder / "chats").glob("last-*.json"))
    return list(json.loads(files[-1].read_text())["messages"]) if files else []


def begin_an_answer(terminal: Terminal) -> None:
    """Ask, and wait until a good part of the answer has come."""
    terminal.press("hello\r")
    begun = len(terminal.received)
    terminal.wait_until(lambda: len(terminal.received) > begun + 300, "an answer")


def test_a_conversation(chat: Open, tiny_llama: Path) -> None:
    terminal = chat(tiny_llama, "-n", "5", "--stats")
    assert terminal.rows[:2] == [
        "edgellama 0.1.0: tiny, context of 512 tokens.",
        "Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands.",
    ]
    terminal.say("hello")
    assert "answer 5 tokens" in terminal.text
    terminal.say("/stats")
    assert "of 512 tokens]" in terminal.text.replace("\n", "")
    terminal.press("/bye\r")
    assert terminal.exit_status() == 0


def test_model_speed_and_context_stand_below_the_line(chat: Open, tiny_llama: Path) -> None:
    terminal = chat(tiny_llama, "-n", "5")
    assert terminal.rows[-1] == "tiny · 0 / 512 tokens (0%)"
    terminal.say("hello")
    assert re.fullmatch(r"tiny · [\d.]+ tok/s · \d+ / 512 tokens \(\d+%\)", terminal.rows[-1])
    narrow = chat(tiny_llama, "-n", "5", columns=30)
    narrow.say("hello")
    assert re.fullmatch(r"\d+ / 512 tokens \(\d+%\)", narrow.rows[-1])


def test_ctrl_d_leaves(chat: Open, tiny_llama: Path) -> None:
    terminal = chat(tiny_llama)
    terminal.press(CTRL_D)
    assert terminal.exit_status() == 0


def test_ctrl_c_stops_the_answer_within_a_second_and_keeps_what_came(
    chat: Open, endless_model: Path, data_folder: Path
) -> None:
    terminal = chat(endless_model, "--ctx", "0", "--plain")
    begin_an_answer(terminal)
    work_s = terminal.work_s()
    terminal.press(CTRL_C)
    terminal.wait_for("[stopped]")
    assert terminal.work_s() - work_s < 1  # of its own: the others share the machine
    terminal.wait_for_prompt()
    question, answer = last_saved(data_folder)
    assert question == {"role": "user", "content": "hello"}
    assert len(answer["content"]) > 50
    shown = terminal.text.partition(">>> hello\n")[2]
    assert shown.startswith(answer["content"].splitlines()[0][:40])


def test_ctrl_c_twice_leaves_with_130(chat: Open, endless_model: Path) -> None:
    terminal = chat(endless_model, "--ctx", "0")
    begin_an_answer(terminal)
    terminal.press(CTRL_C)
    terminal.wait_for("[stopped]")
    terminal.wait_for_prompt()
    terminal.press(CTRL_C)
    assert terminal.exit_status() == 130


def test_ctrl_c_at_the_prompt_clears_the_line_first(chat: Open, tiny_llama: Path) -> None:
    terminal = chat(tiny_llama)
    for words in ("some words", "other words"):  # the second line is not empty either
        terminal.press(words)
        terminal.wait_for(words)
        n_told = terminal.text.count("[Ctrl-C again leaves]")
        terminal.press(CTRL_C)
        terminal.wait_until(
            lambda n=n_told: terminal.text.count("[Ctrl-C again leaves]") > n, "advice"
        )
        terminal.wait_for_prompt()
    terminal.press(CTRL_C)
    assert terminal.exit_status() == 130


def test_an_error_does_not_end_the_conversation(chat: Open, tiny_llama: Path) -> None:
    terminal = chat(tiny_llama, "-n", "5", "--ctx", "150", "--stats")
    terminal.say("x" * 300)
    said = terminal.text.replace("\n", "")
    assert re.search(r"edgellama: error: the prompt has \d+ tokens, the context holds 150;", said)
    assert "/set context-policy truncate-oldest" in said
    terminal.say("/read missing.txt")
    assert "edgellama: error: missing.txt: No such file or directory" in terminal.text
    terminal.say("hello")
    assert "answer 5 tokens" in terminal.text


def test_regen_and_undo(chat: Open, tiny_llama: Path, data_folder: Path) -> None:
    terminal = chat(tiny_llama, "--temp", "5", "--regex", "[a-z]{60}")  # not alike by chance
    terminal.say("hello")
    _, first = last_saved(data_folder)
    terminal.say("/regen")
    question, second = last_saved(data_folder)
    assert question["content"] == "hello"
    assert second != first
    terminal.say("the cat")
    assert len(last_saved(data_folder)) == 4
    terminal.say("/undo")
    assert "[taken back: the cat]" in terminal.text
    assert last_saved(data_folder) == [question, second]


def test_a_saved_conversation_is_there_after_a_restart(chat: Open, tiny_llama: Path) -> None:
    terminal = chat(tiny_llama, "-n", "5")
    terminal.say("hello")
    terminal.say("/save cats")
    terminal.press(CTRL_D)
    assert terminal.exit_status() == 0
    again = chat("--resume", "cats")
    assert re.search(r"\[2 messages, \d+ tokens are there", again.text)
    again.say("/show")
    assert "user:\nhello\n" in again.text


def test_what_was_said_survives_a_kill_in_the_middle_of_an_answer(
    chat: Open, endless_model: Path, data_folder: Path
) -> None:
    terminal = chat(endless_model, "--ctx", "0")
    terminal.say("/set max-tokens 5")
    terminal.say("the cat")
    finished = last_saved(data_folder)
    terminal.say("/set max-tokens -1")
    begin_an_answer(terminal)
    os.kill(terminal.pid, signal.SIGKILL)
    assert terminal.exit_status() == -signal.SIGKILL
    assert last_saved(data_folder) == finished
    again = chat("--resume", "--ctx", "0")
    again.say("/show")
    assert "user:\nthe cat\n" in again.text
    again.press(UP * 2)
    again.wait_for(">>> hello")  # the message that had no answer yet can be recalled


def test_what_was_typed_can_be_recalled_by_this_user_alone(
    chat: Open, tiny_llama: Path, data_folder: Path
) -> None:
    terminal = chat(tiny_llama, "-n", "5")
    terminal.say("the little cat")
    terminal.press(CTRL_D)
    terminal.exit_status()
    assert stat.S_IMODE((data_folder / "history").stat().st_mode) == 0o600
    again = chat(tiny_llama, "-n", "5")
    again.press(UP)
    again.wait_for(">>> the little cat")


def test_a_history_that_is_damaged_or_too_long_is_no_hindrance(
    chat: Open, tiny_llama: Path, data_folder: Path
) -> None:
    data_folder.mkdir(mode=0o700)
    damaged = b"+the little cat\n\xff\xfe\x00+\x1b[2J\n# no line\n+once"
    (data_folder / "history").write_bytes(damaged)
    terminal = chat(tiny_llama, "-n", "5")
    terminal.say("hello")
    terminal.press(CTRL_D)
    assert terminal.exit_status() == 0
    assert (data_folder / "history").read_bytes().startswith(damaged)
    (data_folder / "history").write_bytes(b"#\n+the little cat\n" * 300_000)
    again = chat(tiny_llama, "-n", "5")
    again.say("hello")
    assert (data_folder / "history").stat().st_size < 100
    assert (data_folder / "history.before").stat().st_size > 5_000_000


def test_private_keeps_nothing(chat: Open, tiny_llama: Path, data_folder: Path) -> None:
    terminal = chat(tiny_llama, "-n", "5", "--private")
    terminal.say("the little cat")
    terminal.press(CTRL_D)
    assert terminal.exit_status() == 0
    assert not data_folder.exists()


def test_a_folder_that_cannot_be_written_is_told_and_no_hindrance(
    chat: Open, tiny_llama: Path, data_folder: Path
) -> None:
    data_folder.write_text("in the way")
    terminal = chat(tiny_llama, "-n", "5", "--stats")
    assert "[what you type is not kept:" in terminal.text
    terminal.say("hello")
    assert "[the conversation is not kept:" in terminal.text
    assert "answer 5 tokens" in terminal.text


def test_a_message_of_several_lines(chat: Open, tiny_llama: Path, data_folder: Path) -> None:
    terminal = chat(tiny_llama, "-n", "5")
    for keys in ("the\\\rcat", f"the{ALT_ENTER}cat", '"""the\rcat"""'):
        terminal.say(keys)
        assert last_saved(data_folder)[-2]["content"] == "the\ncat"
    assert ">>> the\\\n... cat\n" in terminal.text


def test_commands_settings_and_files_are_completed(
    chat: Open, tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "story.txt").write_text("once upon a time")
    terminal = chat(tiny_llama)
    terminal.press("/s")
    terminal.wait_for("/stats")
    for name in ("/system", "/set", "/show", "/save"):
        terminal.wait_for(name)
    terminal.press(CTRL_C)
    terminal.wait_for_prompt()
    terminal.press("/set min")
    terminal.wait_for("drop tokens less likely")
    terminal.press(CTRL_C)
    terminal.wait_for_prompt()
    terminal.press(f"/read {tmp_path}/sto")
    terminal.wait_for("story.txt")
    terminal.press(f"{TAB}\r")
    terminal.wait_for("in front of your next message")


def test_words_typed_during_an_answer_wait_for_the_next_prompt(
    chat: Open, endless_model: Path
) -> None:
    terminal = chat(endless_model, "--ctx", "0", "--plain")
    begin_an_answer(terminal)
    begun = len(terminal.received)
    terminal.press("early bird")
    terminal.wait_until(lambda: len(terminal.received) > begun + 300, "more of the answer")
    terminal.press(CTRL_C)
    terminal.wait_for("[stopped]")
    terminal.wait_for_prompt()
    assert "early bird" not in terminal.text.partition("[stopped]")[0]


def test_what_a_model_says_cannot_steer_the_terminal(chat: Open, tiny_llama: Path) -> None:
    # A hot random model says any byte.
    wild = ["--temp", 50, "--top-k", 0, "--top-p", 1, "--min-p", 0, "--seed", 1, "-n", 300]
    for plain in ([], ["--plain"]):
        terminal = chat(tiny_llama, *wild, *plain)
        begun = len(terminal.received)
        terminal.say("hello")
        said = terminal.received[begun:]
        assert "\ufffd" in said
        # All that may be there: colours, movements of the cursor by rows, what the prompt needs.
        known = r"\x1b\[(\d+(;\d+)*)?[mAKJCDH]|\x1b\[\?\d+[hl]|\x1b\[6n|[\r\n\t]"
        assert not re.search("[\x00-\x1f\x7f-\x9f]", re.sub(known, "", said))


def test_markdown_on_a_terminal_and_as_it_is_elsewhere(chat: Open, tiny_llama: Path) -> None:
    said = r"\*\*bold\*\* and `code`"
    rendered = chat(tiny_llama, "--regex", said)
    rendered.say("hello")
    assert ">>> hello\nbold and code\n" in rendered.text
    assert "\x1b[1mbold\x1b[0m" in rendered.received
    for plain in ({"arguments": ["--plain"]}, {"environment": {"NO_COLOR": "1"}}):
        as_it_is = chat(tiny_llama, "--regex", said, *plain.pop("arguments", []), **plain)
        as_it_is.say("hello")
        assert ">>> hello\n**bold** and `code`\n" in as_it_is.text


def test_colour_only_where_it_is_welcome(chat: Open, tiny_llama: Path) -> None:
    coloured = chat(tiny_llama)
    coloured.say("/stats")
    assert "\x1b[2m[nothing was answered yet]\x1b[0m" in coloured.received
    plain = chat(tiny_llama, environment={"NO_COLOR": "1"})
    plain.say("/stats")
    assert "[nothing was answered yet]\r\n" in plain.received
    assert "\x1b[2m" not in plain.received


def test_a_dumb_terminal_gets_text_alone(chat: Open, tiny_llama: Path) -> None:
    terminal = chat(tiny_llama, "-n", "5", environment={"TERM": "dumb"}, prompt=">>>")
    terminal.press("hello\r/stats\r/bye\r")
    assert terminal.exit_status() == 0
    assert "answer 5 tokens" in terminal.text
    assert "\x1b" not in terminal.received


def test_a_terminal_of_another_age_and_size(chat: Open, tiny_llama: Path) -> None:
    old = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    terminal = chat(tiny_llama, "-n", "40", environment=old, columns=12, lines=5)
    terminal.say("hello")
    terminal.press("/bye\r")
    assert terminal.exit_status() == 0
