"""JSON, read character by character while it arrives, by generators that wait for the next one.

    reading = scanner.value(); next(reading); reading.send("{"); reading.send("}") -> StopIteration

What has been read is held until its reader knows what it is. A reader that finds something else
than it looks for raises NotACall before it takes the character that does not fit, so that whoever
catches it finds everything: the held text, then the rest of the stream.
"""

import json
import re
from collections.abc import Callable, Collection, Generator
from typing import TypeAlias, TypeVar

from .definitions import MAX_DEPTH

T = TypeVar("T")
Reading: TypeAlias = Generator[None, str, T]  # is sent one character at a time, returns a T

END = ""  # sent, and read again and again, where the stream ends

_SPACE = frozenset(" \t\r\n")
_OF_NUMBERS = frozenset("+-.0123456789eE")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPES = frozenset('"\\/bfnrt')
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f]")


class NotACall(Exception):
    """What was read cannot become what its reader looks for."""


class Scanner:
    """The stream's next character, what is held of it, and the forms of JSON."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.stream: Callable[[str], None] | None = None  # takes what is read instead of `held`
        self._next: str | None = None

    def peek(self) -> Reading[str]:
        """The next character, which stays the next; END behind the last."""
        if self._next is None:
            self._next = yield
        return self._next

    def take(self, written: str | None = None) -> Reading[str]:
        """The next character, now held, or streamed as `written`; raises NotACall at the END."""
        char = yield from self.peek()
        if char == END:
            raise NotACall
        self._next = None
        if self.stream is None:
            self.held.append(char)
        else:
            self.stream(written or char)
        return char

    def space(self) -> Reading[None]:
        while (yield from self.peek()) in _SPACE:
            yield from self.take()

    def expect(self, text: str) -> Reading[None]:
        for char in text:
            if (yield from self.peek()) != char:
                raise NotACall
            yield from self.take()

    def word(self, words: Collection[str], ends: Collection[str] = ()) -> Reading[str]:
        """One of `words`, with one of `ends` as the next character if there are any."""
        read = ""
        while True:
            if read in words and (not ends or (yield from self.peek()) in ends):
                return read
            read += yield from self.peek()
            # At the END nothing is added, and what was a beginning is all there will be.
            if self._next == END or not any(word.startswith(read) for word in words):
                raise NotACall
            yield from self.take()

    def quoted(self, words: Collection[str]) -> Reading[str]:
        """One of `words` as a JSON string."""
        yield from self.expect('"')
        read = yield from self.word(words, ('"',))
        yield from self.expect('"')
        return read

    def value(self, depth: int = 0) -> Reading[None]:
        """Any JSON value."""
        if depth > MAX_DEPTH:
            raise NotACall
        char = yield from self.peek()
        if char == '"':
            yield from self.string()
        elif char == "{":
            yield from self.object(depth)
        elif char == "[":
            yield from self._array(depth)
        elif char in _OF_NUMBERS:
            yield from self._number()
        else:
            yield from self.word(("true", "false", "null"))

    def object(self, depth: int = 0) -> Reading[None]:
        yield from self.expect("{")
        yield from self.space()
        if (yield from self.peek()) != "}":
            yield from self._member(depth)
            while (yield from self.peek()) == ",":
                yield from self.take()
                yield from self.space()
                yield from self._member(depth)
        yield from self.expect("}")

    def string(self) -> Reading[None]:
        """A JSON string; control characters, which models write as they are, stream as escapes."""
        yield from self.expect('"')
        while (char := (yield from self.peek())) != '"':
            yield from self.take(escaped(char))
            if char == "\\":
                yield from self._escape()
        yield from self.take()

    def _escape(self) -> Reading[None]:
        if (yield from self.peek()) == "u":
            yield from self.take()
            for _ in range(4):
                yield from self._one_of(_HEX)
        else:
            yield from self._one_of(_ESCAPES)

    def _one_of(self, chars: Collection[str]) -> Reading[None]:
        if (yield from self.peek()) not in chars:
            raise NotACall
        yield from self.take()

    def _member(self, depth: int) -> Reading[None]:
        yield from self.string()
        yield from self.space()
        yield from self.expect(":")
        yield from self.space()
        yield from self.value(depth + 1)
        yield from self.space()

    def _array(self, depth: int) -> Reading[None]:
        yield from self.expect("[")
        yield from self.space()
        if (yield from self.peek()) != "]":
            yield from self.value(depth + 1)
            yield from self.space()
            while (yield from self.peek()) == ",":
                yield from self.take()
                yield from self.space()
                yield from self.value(depth + 1)
                yield from self.space()
        yield from self.expect("]")

    def _number(self) -> Reading[None]:
        digits = ""
        while (yield from self.peek()) in _OF_NUMBERS:
            digits += yield from self.take()
        if not _NUMBER.fullmatch(digits):
            raise NotACall


def escaped(text: str) -> str:
    """`text` with its control characters as a JSON string may hold them."""
    return _CONTROL.sub(lambda match: json.dumps(match[0])[1:-1], text)


def mended(source: str) -> str:
    """JSON whose strings may hold control characters as they are -> JSON."""
    return _STRING.sub(lambda match: escaped(match[0]), source)
