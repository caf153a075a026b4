r"""llama.cpp's GBNF, as Lark.

    root ::= "[" item ("," item)* "]"      start: r0
    item ::= [0-9]+ | root            -->  r0: T2 r1 (T3 r1)* T4      T2: /\[/  T3: /,/  T4: /\]/
                                           r1: T5 | r0                T5: /[0-9]/+

What cannot contain itself is regular, and becomes one terminal, so a grammar without recursion is
matched exactly. A terminal inside a recursive rule is matched as long as it goes on, as lexers do;
where GBNF would also have ended it earlier, fewer texts are allowed, never others.
https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from edgellama.errors import InvalidRequest

_MAX_DEPTH = 100  # of parentheses
_MAX_RULES = 1000
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_COUNTS = re.compile(r"\{\s*(\d{1,9})\s*(?:(,)\s*(\d{1,9})?\s*)?\}")
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([\\\"\[\]nrt]))")
_SHORT_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_ANY = "(?s:.)"


@dataclass(slots=True)
class _Chars:
    """A regular expression of fixed text or of one character of a class."""

    regex: str


@dataclass(slots=True)
class _Reference:
    name: str
    place: int  # where it stands in the text


@dataclass(slots=True)
class _Sequence:
    items: list["_Node"] = field(default_factory=list)


@dataclass(slots=True)
class _Choice:
    items: list["_Node"]


@dataclass(slots=True)
class _Repeated:
    item: "_Node"
    counts: str  # as Lark writes them: "*", "{2,3}"


_Node = _Chars | _Reference | _Sequence | _Choice | _Repeated


def gbnf_to_lark(text: str) -> str:
    """The Lark grammar of a GBNF text. Raises InvalidRequest with the line of a mistake."""
    rules = _Parser(text).rules()
    return _Writer(rules, _recursive(rules)).lark()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def rules(self) -> dict[str, _Node]:
        """The rules by name, "root" among them; every name that is used is there."""
        rules: dict[str, _Node] = {}
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._text):
            begin = self._at
            name = self._match(_NAME)
            if name is None:
                self._fail("expected a rule, name ::= ...")
            self._skip(_SPACE)
            if not self._take("::="):
                self._fail(f"expected ::= behind the name {name[0]}")
            self._skip(_SPACE_AND_LINES)
            if name[0] in rules:
                self._fail(f"the rule {name[0]} is defined twice", begin)
            rules[name[0]] = self._choice(0)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                self._fail("expected a string, [class], (group), name, | or the end of the line")
            self._skip(_SPACE_AND_LINES)
        if "root" not in rules:
            raise InvalidRequest("the GBNF grammar has no rule root, with which it would begin")
        if len(rules) > _MAX_RULES:
            raise InvalidRequest(f"the GBNF grammar has more than {_MAX_RULES} rules")
        for node in rules.values():
            for reference in _references(node):
                if reference.name not in rules:
                    self._fail(f"the rule {reference.name} is not defined", reference.place)
        return rules

    def _choice(self, depth: int) -> _Node:
        items = [self._sequence(depth)]
        while self._take("|"):
            self._skip(_SPACE_AND_LINES)
            items.append(self._sequence(depth))
        return items[0] if len(items) == 1 else _Choice(items)

    def _sequence(self, depth: int) -> _Node:
        items: list[_Node] = []
        space = _SPACE_AND_LINES if depth else _SPACE
        while (item := self._item(depth)) is not None:
            self._skip(space)
            while counts := self._counts():
                item = _Repeated(item, counts)
                self._skip(space)
            items.append(item)
        return items[0] if len(items) == 1 else _Sequence(items)

    def _item(self, depth: int) -> _Node | None:
        begin = self._at
        if self._take('"'):
            text = ""
            while not self._take('"'):
                text += self._char("string")
            return _Chars("".join(map(_escaped, text))) if text else _Sequence()
        if self._take("["):
            return self._class()
        if self._take("."):
            return _Chars(_ANY)
        if self._take("("):
            if depth == _MAX_DEPTH:
                self._fail(f"more than {_MAX_DEPTH} parentheses in each other")
            self._skip(_SPACE_AND_LINES)
            group = self._choice(depth + 1)
            if not self._take(")"):
                self._fail("expected ) for this parenthesis", begin)
            return group
        if self._text[begin : begin + 1] in ("<", "!"):
            self._fail("token references (<...>, !<...>) are not supported")
        name = self._match(_NAME)
        return name and _Reference(name[0], begin)

    def _class(self) -> _Node:
        negated = "^" if self._take("^") else ""
        ranges = ""
        while not self._take("]"):
            low = high = self._char("class")
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._take("-")
                high = self._char("class")
            if high < low:
                self._fail(f"the range {low}-{high} is empty")
            ranges += f"{_escaped(low)}-{_escaped(high)}"
        if not ranges:
            return _Chars(_ANY if negated else "[^\\x{0}-\\x{10ffff}]")
        return _Chars(f"[{negated}{ranges}]")

    def _char(self, where: str) -> str:
        """One character of a string or class, escapes resolved."""
        if self._at >= len(self._text) or self._text[self._at] in "\r\n":
            self._fail(f"the {where} does not end on its line")
        if self._text[self._at] != "\\":
            self._at += 1
            return self._text[self._at - 1]
        escape = self._match(_ESCAPE)
        if escape is None:
            found = self._text[self._at : self._at + 2]
            self._fail(rf"{found} is no escape; \n \r \t \\ \" \[ \] \xHH \uHHHH are")
        digits = escape[1] or escape[2] or escape[3]
        if not digits:
            return _SHORT_ESCAPES.get(escape[4], escape[4])
        if int(digits, 16) > 0x10FFFF or 0xD800 <= int(digits, 16) <= 0xDFFF:
            self._fail(f"{escape[0]} is no character", escape.start())
        return chr(int(digits, 16))

    def _counts(self) -> str | None:
        for sign in "*+?":
            if self._take(sign):
                return sign
        if self._text[self._at : self._at + 1] != "{":
            return None
        found = self._match(_COUNTS)
        if found is None:
            self._fail("expected {m}, {m,} or {m,n} with numbers of up to 9 digits")
        least, comma, most = found.groups()
        if most and int(most) < int(least):
            self._fail(f"{found[0]} repeats at most less than at least", found.start())
        return f"{{{least}{comma or ''}{most or ''}}}"

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found

    def _skip(self, space: re.Pattern[str]) -> None:
        self._match(space)

    def _fail(self, what: str, place: int | None = None) -> NoReturn:
        before = self._text[: self._at if place is None else place]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise InvalidRequest(f"the GBNF grammar, line {line}, column {column}: {what}")


class _Writer:
    def __init__(self, rules: dict[str, _Node], recursive: set[str]) -> None:
        self._rules = rules
        self._recursive = recursive
        self._numbers = {name: i for i, name in enumerate(rules)}
        self._lines: list[str] = []
        self._n_terminals = len(rules)

    def lark(self) -> str:
        self._lines.append(f"start: {self._name('root')}")
        for name, node in self._rules.items():
            body = self._in_rule(node) if name in self._recursive else self._regular(node)
            self._lines.append(f"{self._name(name)}: {body}")
        return "\n".join(self._lines)

    def _name(self, rule: str) -> str:
        return f"{'r' if rule in self._recursive else 'T'}{self._numbers[rule]}"

    def _in_rule(self, node: _Node) -> str:
        """A node of a recursive rule; each of its largest regular parts is a terminal."""
        if not any(ref.name in self._recursive for ref in _references(node)):
            self._lines.append(f"T{self._n_terminals}: {self._regular(node)}")
            self._n_terminals += 1
            return f"T{self._n_terminals - 1}"
        match node:
            case _Sequence(items):
                return " ".join(self._in_rule(part) for part in self._parts(items))
            case _Choice(items):
                return "(" + " | ".join(map(self._in_rule, items)) + ")"
            case _Repeated(item, counts):
                return f"({self._in_rule(item)}){counts}"
            case _Reference(name):
                return self._name(name)
        raise AssertionError(node)

    def _parts(self, items: list[_Node]) -> Iterator[_Node]:
        """The items, neighbours that are regular joined to one."""
        regular: list[_Node] = []
        for item in items:
            if any(ref.name in self._recursive for ref in _references(item)):
                if regular:
                    yield _Sequence(regular)
                    regular = []
                yield item
            else:
                regular.append(item)
        if regular:
            yield _Sequence(regular)

    def _regular(self, node: _Node) -> str:
        match node:
            case _Chars(regex):
                return f"/{regex}/"
            case _Reference(name):
                return self._name(name)
            case _Sequence(items):
                return " ".join(map(self._grouped, items)) if items else '""'
            case _Choice(items):
                return "(" + " | ".join(map(self._regular, items)) + ")"
            case _Repeated(item, counts):
                return f"{self._grouped(item)}{counts}"

    def _grouped(self, node: _Node) -> str:
        return f"({self._regular(node)})"


def _references(node: _Node) -> Iterator[_Reference]:
    pending = [node]
    while pending:
        node = pending.pop()
        match node:
            case _Reference():
                yield node
            case _Sequence(items) | _Choice(items):
                pending += items
            case _Repeated(item):
                pending.append(item)


def _recursive(rules: dict[str, _Node]) -> set[str]:
    """The rules that lead to a rule which contains itself."""
    leads_to = {name: {ref.name for ref in _references(node)} for name, node in rules.items()}
    regular: set[str] = set()
    while found := {n for n, used in leads_to.items() if n not in regular and used <= regular}:
        regular |= found
    return rules.keys() - regular


def _escaped(char: str) -> str:
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}"
