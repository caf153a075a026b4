"""A real terminal for tests: a pseudo-terminal, and an emulator (pyte) that says what it shows."""

import codecs
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

# Take the terminal, whose Ctrl-C then comes here, and be the command.
_BEGIN = (
    "import fcntl, runpy, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " runpy.run_module('edgellama', run_name='__main__')"
)
_FIGURES = re.compile(r"[\d,]+ / [\d,]+")  # below the line at which one types
_PROMPT_BEGINS = "\x1b[?2004h"  # pasted text is to be marked as such


class Terminal:
    """An edgellama command on a terminal of its own: keys to press, a screen to read."""

    def __init__(
        self,
        *arguments: object,
        columns: int = 80,
        lines: int = 24,
        environment: dict[str, str] | None = None,
    ) -> None:
        pytest.importorskip("termios", reason="needs pseudo-terminals, which Windows lacks")
        import pty
        import termios

        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (lines, columns))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", **(environment or {})},
        )
        os.close(slave)
        self.pid = self._process.pid
        self.received = ""  # all that was written to the terminal
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._emulator, self._stream = _emulator(columns, lines, self._answer)

    @property
    def rows(self) -> list[str]:
        """What the terminal shows, and what has scrolled off its top."""
        emulator = self._emulator
        gone = [
            "".join(row[i].data for i in range(emulator.columns)) for row in emulator.history.top
        ]
        return [row.rstrip() for row in gone + emulator.display]

    @property
    def text(self) -> str:
        return "\n".join(self.rows)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, text: str) -> None:
        """Until `text` is on the screen, or above it."""
        self.wait_until(lambda: text in self.text, repr(text))

    def wait_for_prompt(self) -> None:
        """Until a message can be typed: the cursor is hidden until all of the prompt is drawn."""
        self.wait_until(
            lambda: (
                bool(_FIGURES.search("\n".join(self._emulator.display)))
                and not self._emulator.cursor.hidden
            ),
            "prompt",
        )

    def wait_until(self, reached: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < deadline, f"{what} did not show:\n{self.text.rstrip()}"
            self._read(0.05)

    def say(self, line: str) -> None:
        """Type a line at the prompt and wait for the next prompt."""
        n_prompts = self.received.count(_PROMPT_BEGINS)
        self.press(line + "\r")
        self.wait_until(lambda: self.received.count(_PROMPT_BEGINS) > n_prompts, "the next prompt")
        self.wait_for_prompt()

    def work_s(self) -> float:
        """Seconds that processors have worked for the command."""
        return sum(psutil.Process(self.pid).cpu_times()[:2])

    def exit_status(self) -> int:
        """Of the command, once it has ended and all that it wrote is read."""
        self.wait_until(lambda: self._process.poll() is not None, "the end")
        while self._read(0.05):
            pass
        return self._process.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def _answer(self, data: str) -> None:
        os.write(self._master, data.encode())

    def _read(self, seconds: float) -> bool:
        """Whether something came within this time."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says so when the other end has closed
            data = b""
        if not data:
            time.sleep(seconds)
            return False
        text = self._decoder.decode(data)  # which may end amid a character
        self.received += text
        self._stream.feed(text)
        return True


def screen_of(text: str, columns: int = 80, lines: int = 24) -> list[str]:
    """The rows, scrolled off and shown, of a terminal to which `text` was written."""
    emulator, stream = _emulator(columns, lines, lambda data: None)
    stream.feed(text.replace("\n", "\r\n"))  # as the kernel writes it
    gone = ["".join(row[i].data for i in range(columns)) for row in emulator.history.top]
    return [row.rstrip() for row in gone + emulator.display]


def _emulator(columns: int, lines: int, answer: Callable[[str], None]) -> tuple[Any, Any]:
    pyte = pytest.importorskip("pyte", reason="needs the extra `test`: pyte")
    emulator = pyte.HistoryScreen(columns, lines, history=10_000)
    emulator.write_process_input = answer
    return emulator, pyte.Stream(emulator)
