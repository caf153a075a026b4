"""Markdown that grows: what is finished scrolls up, the last block is drawn anew as it comes.

    text --markdown-it--> blocks --rich--> rows     all but the last block: written once, for good
                                                    the last one: the rows on which it differs

Only what still fits on the screen can be drawn anew, because a terminal takes nothing back that has
scrolled away. An open block that is taller is cut where it can be, behind an item of a list or a
line of code; of any other only the end is shown until it is finished and written whole. So all of
the text ends up in the terminal's memory exactly once.
"""

import re
import sys
import time
from copy import copy
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token as Mark
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import CodeBlock, Heading, HorizontalRule, Markdown, MarkdownElement
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from .terminal import harmless

DRAWING_SHARE = 0.1  # of the time at most: the cores are for the model
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
# A line of these may yet become a rule, a heading, an item or a fence: it waits for a token more.
_UNDECIDED = re.compile(r"[\s\-=*+_#>`~|.:\d)]*")


class MarkdownDisplay:
    """Shows an answer as it comes."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout, highlight=False, emoji=False)
        # HTML and pictures stay as they are written; a character named by number could be any.
        self._parser = MarkdownIt("commonmark", {"html": False})
        self._parser.enable(["table", "strikethrough"]).disable(["image", "entity"])
        self._blocks = _Blocks("", hyperlinks=False)
        self._live = _LiveRows()
        self._text = ""  # what is not written for good yet
        self._began = False  # something is
        self._inside = False  # and `_text` goes on with its last list or piece of code
        self._next_drawing = 0.0

    def wait(self, remark: str) -> None:
        """Show a remark where the answer will be."""
        self._live.draw([f"\x1b[2m{remark}\x1b[0m"], self._console.width)

    def push(self, text: str) -> None:
        """More of the answer."""
        self._text += harmless(text)
        began = time.monotonic()
        if began >= self._next_drawing:
            self._draw()
            ended = time.monotonic()
            self._next_drawing = ended + (ended - began) / DRAWING_SHARE

    def finish(self) -> None:
        """The answer has ended, however far it came: write the rest."""
        self._keep(self._text, rest="", inside=False)

    def _draw(self) -> None:
        lines = self._text.split("\n")
        n_shown = len(lines) - bool(_UNDECIDED.fullmatch(lines[-1]))
        blocks = [m for m in self._parse(lines[:n_shown]) if m.level == 0 and m.map]
        start = blocks[-1].map[0] if blocks and blocks[-1].map else 0
        if start:
            self._keep("\n".join(lines[:start]), rest="\n".join(lines[start:]), inside=False)
            del lines[:start]
            n_shown -= start
        rows = self._rows("\n".join(lines[:n_shown]), ended=False)
        height = max(self._console.height - 2, 1)  # of a screen that also holds the cursor
        if len(rows) > height and (cut := self._cut(lines[:n_shown])):
            kept, rest = lines[:cut], lines[cut:]
            if blocks[-1].type == "fence":
                rest.insert(0, lines[0])
            self._keep("\n".join([*kept, ""]), rest="\n".join(rest), inside=True)
            rows = self._rows(self._text, ended=False)
        self._live.draw(rows[-height:], self._console.width)

    def _cut(self, lines: list[str]) -> int:
        """How many lines of the one block in `lines` need not wait for the others; 0: all must."""
        marks = self._parse(lines)
        if marks[0].type == "fence":
            return max(len(lines) - 1, 1)
        items = [m.map[0] for m in marks if m.type == "list_item_open" and m.level == 1 and m.map]
        return items[-1] if items else 0

    def _keep(self, text: str, *, rest: str, inside: bool) -> None:
        """Write a text for good and go on with the rest, `inside` the block that was cut."""
        rows = self._rows(text, ended=not inside)
        self._live.draw(rows, self._console.width)
        self._live = _LiveRows()
        self._began = self._began or bool(rows)
        self._text, self._inside = rest, inside

    def _rows(self, text: str, *, ended: bool) -> list[str]:
        """The rows of blocks with a blank one between; the last is finished only if `ended`."""
        marks = self._parse(text.split("\n"))
        if not marks:
            return []
        if self._inside:
            marks[0].meta["goes on"] = True
        marks[-1].meta["ended"] = ended
        rows: list[str] = []
        block: list[Mark] = []
        for mark in marks:
            block.append(mark)
            if mark.level == 0 and mark.nesting <= 0:
                rows += ["", *self._rows_of(block)]
                block = []
        return rows if self._began and not self._inside else rows[1:]

    def _rows_of(self, block: list[Mark]) -> list[str]:
        with self._console.capture() as capture:
            self._console.print(self._blocks.of(block))
        rows = [row.rstrip(" ") for row in capture.get().removesuffix("\n").split("\n")]
        if block[0].type == "fence":
            return rows
        filled = [i for i, row in enumerate(rows) if _plain(row).strip()] or [0]
        return rows[filled[0] : filled[-1] + 1]  # rich leaves others blank around lists and tables

    def _parse(self, lines: list[str]) -> list[Mark]:
        return self._parser.parse("\n".join(lines))


class _LiveRows:
    """The last rows on the screen, which may still change; the cursor stands below them."""

    def __init__(self) -> None:
        self._rows: list[str] = []
        self._width = 0

    def draw(self, rows: list[str], width: int) -> None:
        """Show these in place of the rows before: only from the first that differs on."""
        same = 0
        while same < min(len(rows), len(self._rows)) and rows[same] == self._rows[same]:
            same += 1
        if width != self._width:  # the terminal has broken its rows anew
            same = 0
        n_old = sum(_height(row, width) for row in self._rows[same:])
        n_left = max(n_old - len(rows) + same, 0)
        # Row by row: terminals take the erasure of a whole screen as a wish to keep what it showed.
        written = [f"\x1b[2K{row}\n" for row in rows[same:]] + ["\x1b[2K\n"] * n_left
        sys.stdout.write(_up(n_old) + "".join(written) + _up(n_left))
        sys.stdout.flush()
        self._rows, self._width = rows, width


def _up(n: int) -> str:
    return f"\r\x1b[{n}A" if n else ""


def _height(row: str, width: int) -> int:
    return max(-(-cell_len(_plain(row)) // width), 1)


def _plain(row: str) -> str:
    return _COLOUR.sub("", row)


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}  # all to the left


class _Rule(HorizontalRule):
    new_line = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Rule(style=console.get_style("markdown.hr"))


class _Code(CodeBlock):
    """Code between its fences, at the left edge, in the terminal's own colours: to be copied."""

    info = ""
    goes_on = False
    ended = True

    @classmethod
    def create(cls, markdown: Markdown, token: Mark) -> "_Code":
        code = cls(token.info.partition(" ")[0] or "text", "ansi_dark")
        code.info = token.info
        code.goes_on = "goes on" in token.meta
        code.ended = token.meta.get("ended", True)
        return code

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.goes_on:
            yield Text(f"```{self.info}", style="dim")
        if self.text:
            code = self.text.plain.removesuffix("\n")
            yield Syntax(
                code, self.lexer_name, theme=self.theme, background_color="default", word_wrap=True
            )
        if self.ended:
            yield Text("```", style="dim")


class _Blocks(Markdown):
    """Blocks that are parsed already."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "hr": _Rule,
        "fence": _Code,
        "code_block": _Code,
    }

    def of(self, marks: list[Mark]) -> "_Blocks":
        """Others, with line ends as they were written."""
        for mark in marks:
            for inline in mark.children or ():
                if inline.type == "softbreak":
                    inline.type = "hardbreak"
        blocks = copy(self)  # which costs a hundredth of a new one with its parser
        blocks.parsed = marks
        return blocks
