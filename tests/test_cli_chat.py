"""`edgellama chat`, through a pipe and by keys in a real terminal."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHAT = [sys.executable, "-m", "edgellama", "chat"]
OPTIONS = ["--backend", "reference", "--chat-format", "alpaca", "--temp", "0"]
GREETING = "/help lists commands"


@pytest.fixture(scope="module")
def endless_model(
    tmp_path_factory: pytest.TempPathFactory, write_tiny_llama: Callable[..., Path]
) -> Path:
    """A model with so much context that an answer lasts until it is stopped."""
    return write_tiny_llama(
        tmp_path_factory.mktemp("endless") / "endless.gguf", context_length=2**20
    )


def chat_through_pipe(
    text: str, *arguments: object, options: list[str] = OPTIONS
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CHAT, *options, *map(str, arguments)],
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


def test_each_line_of_a_pipe_gets_an_answer(tiny_llama: Path) -> None:
    done = chat_through_pipe("hello\n\nthe cat\n", tiny_llama, "-n", 5)
    assert (done.returncode, done.stderr) == (0, "")
    answers = done.stdout.splitlines()
    assert len(answers) == 2
    alone = chat_through_pipe("hello", tiny_llama, "-n", 5).stdout.splitlines()
    assert answers[0] == alone[0]


def test_the_second_turn_knows_the_first(tiny_llama: Path) -> None:
    together = chat_through_pipe("hello\nthe cat\n", tiny_llama, "-n", 5).stdout.splitlines()
    forgotten = chat_through_pipe("hello\n/clear\nthe cat\n", tiny_llama, "-n", 5)
    alone = chat_through_pipe("the cat\n", tiny_llama, "-n", 5).stdout.splitlines()
    assert forgotten.stdout.splitlines()[1:] == alone
    assert together[1:] != alone


def test_the_system_prompt_reaches_the_model(tiny_llama: Path) -> None:
    plain = chat_through_pipe("hello", tiny_llama, "-n", 8).stdout
    told = chat_through_pipe("hello", tiny_llama, "-n", 8, "--system", "once upon a time").stdout
    command = chat_through_pipe("/system once upon a time\nhello", tiny_llama, "-n", 8)
    assert told != plain
    assert command.stdout == told
    assert "system prompt: once upon a time" in command.stderr


def test_a_message_may_have_several_lines(tiny_llama: Path) -> None:
    backslash = chat_through_pipe("the\\\ncat\n", tiny_llama, "-n", 8).stdout
    quoted = chat_through_pipe('"""the\ncat"""\n', tiny_llama, "-n", 8).stdout
    unfinished = chat_through_pipe('"""\nthe\ncat', tiny_llama, "-n", 8).stdout
    assert len(backslash.splitlines()) == 1
    assert backslash == quoted == unfinished


def test_commands_are_obeyed_and_unknown_ones_told(tiny_llama: Path) -> None:
    done = chat_through_pipe("/stats\n/help\n/nonsense\n/bye\nhello\n", tiny_llama)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing was answered yet" in done.stderr
    assert "/system TEXT" in done.stderr
    assert "/nonsense is not a command" in done.stderr


def test_stats_count_the_tokens_that_the_cache_kept(tiny_llama: Path) -> None:
    done = chat_through_pipe("hello\nthe cat\n", tiny_llama, "-n", 5, "--stats")
    first, second = done.stderr.splitlines()
    assert "answer 5 tokens" in first
    assert "cached" not in first
    assert re.search(r"prompt \d+ tokens \(\+ \d+ cached\) in .* tok/s", second)


def test_an_answer_that_fills_the_context_says_so(tiny_llama: Path) -> None:
    done = chat_through_pipe("hello\n", tiny_llama, "--ctx", 200)
    assert done.returncode == 0
    assert "the context of 200 tokens is full" in done.stderr


def test_a_message_too_long_for_the_context_is_an_error_with_numbers(tiny_llama: Path) -> None:
    done = chat_through_pipe("x" * 3000, tiny_llama)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"edgellama: error: the prompt has 3,\d+ tokens, the context holds 512; .*\n", done.stderr
    )


def test_a_base_model_is_refused_in_words(tiny_llama: Path) -> None:
    done = chat_through_pipe("hello", tiny_llama, options=["--backend", "reference"])
    assert done.returncode == 1
    assert re.fullmatch(
        r"edgellama: error: tiny.gguf has no chat template.*`edgellama run`.*--chat-format .*\n",
        done.stderr,
    )


class Terminal:
    """A process on a pseudo-terminal of its own, with keys to press and a screen to read."""

    # Take the terminal, whose Ctrl-C then comes here, and be the command.
    BEGIN = (
        "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        " runpy.run_module('edgellama', run_name='__main__')"
    )

    def __init__(self, *arguments: object, **environment: str) -> None:
        import pty

        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.BEGIN, "chat", *OPTIONS, *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "INPUTRC": os.devnull, **environment},
        )
        os.close(slave)
        self.screen = ""  # all that was ever shown

    def press(self, keys: str) -> None:
        # Nobody is faster; and Python's readline overlooks a signal that comes while it takes in a
        # key, until the next key.
        time.sleep(0.2)
        os.write(self._master, keys.encode())

    def wait_for(self, text: str, seconds: float = 30) -> str:
        """Read until `text` shows; forgets what came before it, and returns that."""
        deadline = time.monotonic() + seconds
        while text not in self.screen:
            assert time.monotonic() < deadline, f"{text!r} did not show:\n{self.screen[-2000:]}"
            self._read(0.1)
        before, _, self.screen = self.screen.partition(text)
        return before

    def exit_status(self) -> int:
        deadline = time.monotonic() + 30
        while self._process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        self._read(0.05)
        return self._process.wait(timeout=1)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def _read(self, seconds: float) -> None:
        if select.select([self._master], [], [], seconds)[0]:
            try:
                self.screen += os.read(self._master, 65536).decode(errors="replace")
            except OSError:  # Linux says so when the other end has closed
                time.sleep(seconds)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """terminal(MODEL, option, ...) -> a Terminal that has shown its greeting."""
    pytest.importorskip("termios", reason="needs pseudo-terminals, which Windows lacks")
    opened = []

    def open_one(*arguments: object, **environment: str) -> Terminal:
        opened.append(Terminal(*arguments, **environment))
        opened[-1].wait_for(GREETING)
        opened[-1].wait_for(">>> ")
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_a_conversation_in_a_terminal(terminal: Callable[..., Terminal], tiny_llama: Path) -> None:
    chat = terminal(tiny_llama, "-n", "5", "--stats")
    chat.press("hello\r")
    chat.wait_for("answer 5 tokens")
    chat.wait_for(">>> ")
    chat.press("/stats\r")
    chat.wait_for("of 512 tokens")
    chat.press("/bye\r")
    assert chat.exit_status() == 0


def test_ctrl_d_leaves(terminal: Callable[..., Terminal], tiny_llama: Path) -> None:
    chat = terminal(tiny_llama)
    chat.press("\x04")
    assert chat.exit_status() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(
    terminal: Callable[..., Terminal], endless_model: Path
) -> None:
    chat = terminal(endless_model, "--ctx", "0")
    chat.press("hello\r")
    chat.wait_for("hello\r\n")
    while len(chat.screen) < 50:
        chat._read(0.1)
    pressed = time.monotonic()
    chat.press("\x03")
    chat.wait_for("stopped")
    assert time.monotonic() - pressed < 1
    chat.wait_for(">>> ")
    chat.press("/stats\r")
    chat.wait_for("1,048,576 tokens")
    chat.press("/bye\r")
    assert chat.exit_status() == 0


def test_ctrl_c_twice_leaves_with_130(
    terminal: Callable[..., Terminal], endless_model: Path
) -> None:
    chat = terminal(endless_model, "--ctx", "0")
    chat.press("hello\r")
    chat.wait_for("hello\r\n")
    while len(chat.screen) < 50:
        chat._read(0.1)
    chat.press("\x03")
    chat.wait_for("stopped")
    chat.wait_for(">>> ")
    chat.press("\x03")
    assert chat.exit_status() == 130


def test_ctrl_c_at_the_prompt_clears_the_line_first(
    terminal: Callable[..., Terminal], tiny_llama: Path
) -> None:
    chat = terminal(tiny_llama, "-n", "5")
    chat.press("some words")
    chat.wait_for("some words")
    chat.press("\x03")
    chat.wait_for("Ctrl-C again leaves")
    chat.wait_for(">>> ")
    chat.press("other words")
    chat.wait_for("other words")
    chat.press("\x03")  # the prompt is not empty: this clears it, too
    chat.wait_for("Ctrl-C again leaves")
    chat.wait_for(">>> ")
    chat.press("\x03")
    assert chat.exit_status() == 130


def test_an_error_does_not_end_the_conversation(
    terminal: Callable[..., Terminal], tiny_llama: Path
) -> None:
    chat = terminal(tiny_llama, "-n", "5", "--ctx", "150", "--stats")
    chat.press("x" * 300 + "\r")
    chat.wait_for("the context holds 150")
    chat.wait_for(">>> ")
    chat.press("hello\r")
    chat.wait_for("answer 5 tokens")


def test_what_a_model_says_cannot_steer_the_terminal(
    terminal: Callable[..., Terminal], tiny_llama: Path
) -> None:
    # A hot random model says any byte.
    wild = ["--temp", 50, "--top-k", 0, "--top-p", 1, "--min-p", 0, "--seed", 1, "--stats"]
    controls = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
    assert controls.search(chat_through_pipe("hello", tiny_llama, *wild).stdout)
    chat = terminal(tiny_llama, *wild, NO_COLOR="1")
    chat.press("hello\r")
    chat.wait_for("hello\r\n")
    said = chat.wait_for("[prompt").removeprefix("\x1b[?2004l\r")  # readline ends its own mode
    assert "\ufffd" in said
    assert not controls.search(said.replace("\r\n", "\n"))


def test_colour_only_where_it_is_welcome(
    terminal: Callable[..., Terminal], tiny_llama: Path
) -> None:
    coloured = terminal(tiny_llama)
    coloured.press("/stats\r")
    coloured.wait_for("\x1b[2m[nothing was answered yet]\x1b[0m")
    plain = terminal(tiny_llama, NO_COLOR="1")
    plain.press("/stats\r")
    plain.wait_for("\r\n[nothing was answered yet]\r\n")
    piped = chat_through_pipe("/stats\n", tiny_llama)
    assert piped.stderr == "[nothing was answered yet]\n"
