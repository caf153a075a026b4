r"""Tool calls in what a model writes, found while it writes.

    {"name": "f", "parameters": {"a": 1}}       JSON, as Llama 3.1 and later are asked for: several
                                                with ; or a new line between them, or in a list;
                                                also "arguments", "type", a nested "function"
    <function=f>{"a": 1}</function>             the other form of 3.1
    <tool_call>{"name": ...}</tool_call>        not Llama's own, but of many who fine-tuned it
    [f(a=1), g(b='x')]                          Python, as 3.2 is asked for
    <|python_tag|>brave_search.call(query="a")  the tools that 3.1 knows; any form above, f(a=1),
    <|python_tag|>print(1)                      or code may stand behind the tag

Forms: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1 and .../llama3_2

A call may begin where the answer begins, where a line begins outside of ``` fences, or behind
another call; the forms in angle brackets anywhere. What cannot become a call is let through at
once; what may still become one is held, and let through unchanged if it turns out to be none. Only
functions that were offered are called: {"name": "Ada"} is a text like any other.

Arguments in JSON stream as they are written. Should the model then break off or go astray, the
call stands with the arguments so far, and what does not belong to it is text.
"""

import json
import random
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from edgellama.tokenizer import Tokenizer

from .calls import CallArguments, CallStart, Delta, TextDelta, ToolCall
from .definitions import Tool, check_tools
from .python_literals import literal_arguments
from .scanner import END, NotACall, Reading, Scanner, mended

PYTHON_TAG = "<|python_tag|>"
_FUNCTION_TAG, _CALL_TAG = "<function=", "<tool_call>"
_KEYS = {"name", "parameters", "arguments"}
_ONE_TEXT = re.compile(r'(\w+)="(.*)"\)', re.DOTALL)


class _Piece(Protocol):
    """What is read of a Token."""

    @property
    def text(self) -> str: ...
    @property
    def id(self) -> int: ...


class ToolReader:
    """Turns an answer's tokens into text and calls; see the module.

    tools: those that the model was shown, as the caller gave them or checked. seed: makes the ids
    of the calls the same every time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        tools: Iterable[Tool | Mapping[str, Any]],
        seed: int | None = None,
    ) -> None:
        given = [tool.shown if isinstance(tool, Tool) else tool for tool in tools]
        known = check_tools(given)
        self._names = [tool.name for tool in known]
        self._built_in = [tool.name for tool in known if tool.built_in]
        self._code_name = next((tool.name for tool in known if tool.takes_code), None)
        self._tag_id = None if tokenizer is None else tokenizer.control_tokens.get(PYTHON_TAG)
        self._random = random.Random(seed)
        self._calls: list[ToolCall] = []
        self._fragments: list[str] = []  # of the last call's arguments
        self._out: list[Delta] = []
        self._line = ""  # how the line that is being written begins
        self._in_fence = False
        self._scanner = Scanner()
        self._reading: Reading[None] | None = self._answer()
        next(self._reading)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls so far, the last one perhaps unfinished."""
        self._settle()
        return tuple(self._calls)

    def push(self, token: _Piece) -> list[Delta]:
        """What `token` makes certain, often nothing."""
        for char in token.text:
            self._send(char)
        if token.id == self._tag_id:
            self._send(PYTHON_TAG)  # as one character, which is no text
        return self._taken()

    def finish(self) -> list[Delta]:
        """The rest, once the answer has ended; nothing the second time."""
        self._send(END)
        return self._taken()

    def _send(self, char: str) -> None:
        if self._reading is not None:
            try:
                self._reading.send(char)
            except StopIteration:
                self._reading = None

    def _taken(self) -> list[Delta]:
        deltas, self._out = self._out, []
        return _joined(deltas)

    # What an answer consists of.

    def _answer(self) -> Reading[None]:
        scanner = self._scanner
        yield from scanner.space()
        while (char := (yield from scanner.peek())) != END:
            form = self._form_that_begins(char)
            if form is None:
                yield from scanner.take()
                self._release()
                continue
            try:
                yield from form
            except NotACall:
                self._release()
            else:
                scanner.held.clear()
                self._line = ""
                yield from self._between()
        if self._calls:
            scanner.held.clear()  # what would have parted the last call from another
        self._release()

    def _form_that_begins(self, char: str) -> Reading[None] | None:
        """The reading of a call that `char` may begin; it takes that character at least."""
        if char in (PYTHON_TAG, "<"):
            return self._behind_a_tag()
        if self._in_fence or self._line.strip():
            return None
        if char == "{":
            return self._json_call()
        if char == "[":
            return self._list()
        if any(name[0] == char for name in self._built_in):
            return self._built_in_call()
        return None

    def _between(self) -> Reading[None]:
        """What parts a call from the next, or from text: held until it is known which."""
        yield from self._scanner.space()
        if (yield from self._scanner.peek()) in (";", ","):
            yield from self._scanner.take()
            yield from self._scanner.space()

    def _behind_a_tag(self) -> Reading[None]:
        if (yield from self._scanner.peek()) == PYTHON_TAG:
            yield from self._scanner.take()
            tag = PYTHON_TAG
        else:
            tag = yield from self._scanner.word((_FUNCTION_TAG, _CALL_TAG, PYTHON_TAG))
        if tag == _FUNCTION_TAG:
            yield from self._function_call()
        elif tag == _CALL_TAG:
            yield from self._scanner.space()
            yield from self._json_call()
            yield from self._scanner.space()
            yield from self._scanner.expect("</tool_call>")
        else:
            yield from self._python()

    def _python(self) -> Reading[None]:
        """What stands behind <|python_tag|>."""
        n_calls, begin = len(self._calls), len(self._scanner.held)
        yield from self._scanner.space()
        try:
            char = yield from self._scanner.peek()
            if char == "{":
                yield from self._json_call()
            elif char == "[":
                yield from self._list()
            else:
                yield from self._call_to_the_end()
        except NotACall:
            if self._code_name is None or len(self._calls) > n_calls:
                raise
            yield from self._code(self._code_name, "".join(self._scanner.held[begin:]))

    def _code(self, name: str, code: str) -> Reading[None]:
        """All that follows is Python."""
        self._start(name)
        self._argue('{"code": "' + _json_text(code))
        self._scanner.stream = lambda char: self._argue(_json_text(char))
        try:
            while (yield from self._scanner.peek()) != END:
                yield from self._scanner.take()
        finally:
            self._scanner.stream = None
        self._argue('"}')

    def _function_call(self) -> Reading[None]:
        name = yield from self._scanner.word(self._names, (">",))
        yield from self._scanner.expect(">")
        yield from self._scanner.space()
        if (yield from self._scanner.peek()) == "{":
            self._start(name)
            yield from self._streamed_object()
            yield from self._scanner.space()
            yield from self._scanner.expect("</function>")
        else:
            yield from self._scanner.expect("</function>")
            self._call(name, "{}")

    def _json_call(self) -> Reading[None]:
        """{"name": ..., "parameters": {...}} and its kin."""
        n_calls = len(self._calls)
        name, arguments = yield from self._members({*_KEYS, "type", "id", "function"})
        if len(self._calls) == n_calls:
            if name is None or arguments is None:
                raise NotACall
            self._call(name, arguments)
        self._scanner.held.clear()

    def _members(self, keys: set[str]) -> Reading[tuple[str | None, str | None]]:
        """(name, arguments) of an object with some of `keys`; if the name comes first, the call
        starts and its arguments stream instead.
        """
        scanner = self._scanner
        name: str | None = None
        arguments: str | None = None
        yield from scanner.expect("{")
        while True:
            yield from scanner.space()
            key = yield from scanner.quoted(keys)
            keys.remove(key)
            yield from scanner.space()
            yield from scanner.expect(":")
            yield from scanner.space()
            char = yield from scanner.peek()
            if key == "type":
                yield from scanner.quoted(("function",))
            elif key == "id":
                yield from scanner.string()
            elif key == "function" and char == "{":
                name, arguments = yield from self._members(set(_KEYS))
                keys -= _KEYS
            elif key in ("function", "name"):
                name = yield from scanner.quoted(self._names)
                keys -= {"function", "name"}
            else:
                keys -= {"parameters", "arguments"}
                if name is not None and char == "{":
                    self._start(name)
                    yield from self._streamed_object()
                else:
                    arguments = yield from self._held_arguments()
            yield from scanner.space()
            if (yield from scanner.peek()) != ",":
                break
            yield from scanner.take()
        yield from scanner.expect("}")
        return name, arguments

    def _held_arguments(self) -> Reading[str]:
        """An object, null, or a text that is an object in JSON."""
        begin = len(self._scanner.held)
        yield from self._scanner.value()
        source = mended("".join(self._scanner.held[begin:]))
        value = _loads(source)
        if isinstance(value, str):
            source, value = value, _loads(value)
        if value is None:
            return "{}"
        if not isinstance(value, dict):
            raise NotACall
        return source

    def _list(self) -> Reading[None]:
        """[{"name": ...}, ...] or [f(a=1), ...]"""
        scanner = self._scanner
        yield from scanner.expect("[")
        while True:
            yield from scanner.space()
            if (yield from scanner.peek()) == "{":
                yield from self._json_call()
                yield from scanner.space()
            else:
                name = yield from scanner.word(self._names, ("(",))
                yield from scanner.expect("(")
                arguments = yield from self._python_arguments()
                yield from scanner.space()
                if arguments is None or (yield from scanner.peek()) not in (",", "]"):
                    raise NotACall
                self._call(name, arguments)
            if (yield from scanner.peek()) != ",":
                break
            yield from scanner.take()
        yield from scanner.expect("]")

    def _built_in_call(self) -> Reading[None]:
        """brave_search.call(query="...") without a tag."""
        name = yield from self._scanner.word(self._built_in, (".",))
        yield from self._scanner.expect(".call(")
        arguments = yield from self._python_arguments()
        if arguments is None:
            raise NotACall
        self._call(name, arguments)

    def _call_to_the_end(self) -> Reading[None]:
        """f.call(a="...") or f(a="..."), of any function, with nothing behind it.

        Models do not escape the quotes in a text: the last one is its end.
        """
        scanner = self._scanner
        name = yield from scanner.word(self._names, (".", "("))
        if (yield from scanner.peek()) == ".":
            yield from scanner.expect(".call")
        yield from scanner.expect("(")
        begin = len(scanner.held)
        while (yield from scanner.peek()) != END:
            yield from scanner.take()
        source = "".join(scanner.held[begin:]).rstrip()
        arguments = literal_arguments(source[:-1]) if source.endswith(")") else None
        if arguments is None and (match := _ONE_TEXT.fullmatch(source)):
            arguments = json.dumps({match[1]: match[2]}, ensure_ascii=False)
        if arguments is None:
            raise NotACall
        self._call(name, arguments)

    def _python_arguments(self) -> Reading[str | None]:
        """a=1, b='x') -> JSON; None if they are not literals by name."""
        scanner = self._scanner
        begin = len(scanner.held)
        depth = 1
        while True:
            char = yield from scanner.take()
            if char in ("'", '"'):
                yield from self._python_string(char)
            depth += (char in ("(", "[", "{")) - (char in (")", "]", "}"))
            if depth == 0:
                return literal_arguments("".join(scanner.held[begin:-1])) if char == ")" else None

    def _python_string(self, quote: str) -> Reading[None]:
        """The rest of a Python string whose first quote is taken."""
        scanner = self._scanner
        end = [quote]
        if (yield from scanner.peek()) == quote:
            yield from scanner.take()
            if (yield from scanner.peek()) != quote:
                return  # it was empty
            yield from scanner.take()
            end = [quote] * 3
        begin = len(scanner.held)
        while len(scanner.held) < begin + len(end) or scanner.held[-len(end) :] != end:
            if (yield from scanner.take()) == "\\":
                yield from scanner.take()
                begin = len(scanner.held)  # what was escaped ends nothing

    # What comes out.

    def _start(self, name: str) -> None:
        self._settle()
        self._scanner.held.clear()
        id = f"call_{self._random.getrandbits(96):024x}"
        self._out.append(CallStart(len(self._calls), id, name))
        self._calls.append(ToolCall(id, name, ""))

    def _argue(self, fragment: str) -> None:
        self._fragments.append(fragment)
        self._out.append(CallArguments(len(self._calls) - 1, fragment))

    def _call(self, name: str, arguments: str) -> None:
        self._start(name)
        self._argue(arguments)

    def _streamed_object(self) -> Reading[None]:
        self._scanner.stream = self._argue
        try:
            yield from self._scanner.object()
        finally:
            self._scanner.stream = None

    def _settle(self) -> None:
        """Add the fragments that have come to the last call's arguments."""
        if self._fragments:
            call = self._calls[-1]
            arguments = call.arguments + "".join(self._fragments)
            self._calls[-1] = ToolCall(call.id, call.name, arguments)
            self._fragments = []

    def _release(self) -> None:
        """Let through what is held, as text."""
        text = "".join(char for char in self._scanner.held if char != PYTHON_TAG)
        self._scanner.held.clear()
        if text:
            self._out.append(TextDelta(text))
        for char in text:
            if char == "\n":
                self._in_fence ^= self._line.lstrip().startswith("```")
                self._line = ""
            elif len(self._line) < 16:
                self._line += char


def parse_calls(
    text: str, tools: Iterable[Tool | Mapping[str, Any]], seed: int | None = None
) -> tuple[str, tuple[ToolCall, ...]]:
    """(text, calls) of a whole answer, in which <|python_tag|> is written out."""
    reader = ToolReader(None, tools, seed)
    for char in text:
        reader._send(char)
    deltas = reader.finish()
    return text_of(deltas), reader.calls


def text_of(deltas: Iterable[Delta]) -> str:
    """The text in `deltas`, without the calls."""
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


def _json_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _loads(source: str) -> object:
    try:
        return json.loads(source)
    except (ValueError, RecursionError):
        raise NotACall from None


def _joined(deltas: list[Delta]) -> list[Delta]:
    """`deltas` with neighbours of one kind in one."""
    joined: list[Delta] = []
    for delta in deltas:
        last = joined[-1] if joined else None
        if isinstance(delta, TextDelta) and isinstance(last, TextDelta):
            joined[-1] = TextDelta(last.text + delta.text)
        elif isinstance(delta, CallArguments) and isinstance(last, CallArguments):
            # Between the arguments of two calls the second one's start always stands.
            joined[-1] = CallArguments(last.index, last.fragment + delta.fragment)
        else:
            joined.append(delta)
    return joined
