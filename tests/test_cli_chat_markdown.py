"""Answers on the terminal, as Markdown that grows: each step, and what stands there in the end."""

import math
import os
import random
import re
from collections.abc import Callable

import pytest
from terminal import screen_of

from edgellama.cli import chat_markdown
from edgellama.cli.chat_markdown import MarkdownDisplay

ANSWER = """\
# Sorting

Here is **how** to sort a *list* of type List<int>, see [the docs](https://docs.python.org):

1. Make a list of numbers, as long as you like: it does not matter at all how long it is.
2. Call `sorted`.

- one
- two
  - two and a half

| name | speed |
|------|------:|
| quick | fast |

```python
def double(x):

    return x + x
```

> A quote, said by
> somebody.

---

Roses are red
Violets are blue & <b>bold</b> &#27; ![a picture](x.png)
"""
SHOWN = """\
Sorting

Here is how to sort a list of type List<int>, see the docs
(https://docs.python.org):

 1 Make a list of numbers, as long as you like: it does not
   matter at all how long it is.
 2 Call sorted.

 • one
 • two
    • two and a half

 name   speed
 ────────────
 quick   fast

```python
def double(x):

    return x + x
```

▌ A quote, said by
▌ somebody.

────────────────────────────────────────────────────────────

Roses are red
Violets are blue & <b>bold</b> &#27; !a picture (x.png)"""


@pytest.fixture(autouse=True)
def resize(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """A terminal of 60 columns, 20 lines and 256 colours; resize(columns, lines) changes it."""
    for name in ("COLUMNS", "LINES", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")  # standard output is no terminal in a test
    monkeypatch.setattr(chat_markdown, "DRAWING_SHARE", math.inf)  # every token is drawn

    def resize(columns: int, lines: int) -> None:
        size = os.terminal_size((columns, lines))
        monkeypatch.setattr(os, "get_terminal_size", lambda *descriptor: size)

    resize(60, 20)
    return resize


def written(capsys: pytest.CaptureFixture[str], text: str, *, seed: int = 0, most: int = 6) -> str:
    """What a display writes to the terminal of a text that comes in pieces."""
    rng, display, at = random.Random(seed), MarkdownDisplay(), 0
    display.wait("[reading 300 tokens]")
    while at < len(text):
        n = rng.randint(1, most)
        display.push(text[at : at + n])
        at += n
    display.finish()
    return capsys.readouterr().out


def shown(written: str, *, columns: int = 60, lines: int = 20) -> str:
    return "\n".join(screen_of(written, columns, lines)).rstrip()


@pytest.mark.parametrize("most", [1, 6, 10_000])
def test_markdown_is_rendered_whatever_the_pieces(
    capsys: pytest.CaptureFixture[str], most: int
) -> None:
    assert shown(written(capsys, ANSWER, most=most)) == SHOWN


def test_emphasis_and_headings_are_bold(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b[1mbold\x1b[0m" in written(capsys, "some **bold** words")


PARAGRAPH = " ".join(f"word{i}" for i in range(300))
LIST = "\n".join(f"{i}. item {i}" for i in range(1, 41))
CODE = "\n".join(["```text", *(f"line {i}" if i % 7 else "" for i in range(1, 60)), "```"])
TABLE = "\n".join(["| n | square |", "|---|---|", *(f"| {i} | s{i * i} |" for i in range(40))])


@pytest.mark.parametrize(
    ("text", "pattern"),
    [(PARAGRAPH, r"word\d+"), (LIST, r"item \d+"), (CODE, r"line \d+|```"), (TABLE, r"s\d+")],
    ids=["paragraph", "list", "code", "table"],
)
@pytest.mark.parametrize("lines", [6, 20])
def test_a_block_taller_than_the_screen_is_there_whole_and_once(
    capsys: pytest.CaptureFixture[str],
    resize: Callable[[int, int], None],
    text: str,
    pattern: str,
    lines: int,
) -> None:
    resize(60, lines)
    text = f"Before.\n\n{text}\n\nAfter."
    there = shown(written(capsys, text, most=12), lines=lines)
    assert re.findall(pattern, there) == re.findall(pattern, text)
    assert there.startswith("Before.\n\n")
    assert there.endswith("\n\nAfter.")


def test_blank_lines_of_long_code_stay(
    capsys: pytest.CaptureFixture[str], resize: Callable[[int, int], None]
) -> None:
    resize(60, 8)
    assert shown(written(capsys, CODE), lines=8) == CODE


def test_only_rows_that_changed_are_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    display = MarkdownDisplay()
    display.push("first row\nsecond row\nthird")
    capsys.readouterr()
    display.push(" row")
    assert capsys.readouterr().out == "\r\x1b[1A\x1b[2Kthird row\n"


def test_text_that_may_become_something_else_is_not_shown_too_early(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = MarkdownDisplay()
    for piece in ("Ways to do it:\n", "-", " one"):
        display.push(piece)
    steps = capsys.readouterr().out
    assert "mWays" not in steps  # "text, line break, hyphen" would be a heading
    assert "• one" in shown(steps)


@pytest.mark.parametrize(
    "text",
    [
        "\x1b]0;title\x07 and \x1b[2J\x9b31m",
        "```\x1b[2J\n\x1b[2Jcode\x9b\n```",
        "[link](http://x/\x1b[2J) `\x1b[2J`",
        "| \x1b[2J |\n|---|\n| \x07 |",
        "&#27;[2J &#x9b;2J \\\x1b[2J",
        "<http://\x1b]8;;evil\x1b\\>",
    ],
)
def test_what_a_model_says_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    out = written(capsys, text)
    known = r"\x1b\[(\d+(;\d+)*)?m|\x1b\[\d+A|\x1b\[2K|[\r\n]"
    assert not re.search("[\x00-\x1f\x7f-\x9f]", re.sub(known, "", out))


def test_an_answer_that_is_stopped_stays_as_far_as_it_came(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = MarkdownDisplay()
    display.push("Some text and\n```python\nx =")
    display.finish()
    assert shown(capsys.readouterr().out) == "Some text and\n\n```python\nx =\n```"


def test_an_empty_answer_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    display = MarkdownDisplay()
    display.wait("[reading 300 tokens]")
    display.finish()
    assert shown(capsys.readouterr().out) == ""


def test_a_terminal_that_becomes_narrower_in_between(
    capsys: pytest.CaptureFixture[str], resize: Callable[[int, int], None]
) -> None:
    text = " ".join(f"word{i}" for i in range(20))
    display = MarkdownDisplay()
    display.push(text[:100])
    before = capsys.readouterr().out
    resize(30, 20)
    display.push(text[100:])
    display.finish()
    after = capsys.readouterr().out
    # A terminal of 30 columns has broken the rows of 60 in two.
    assert re.findall(r"word\d+", shown(before + after, columns=30)) == text.split()
