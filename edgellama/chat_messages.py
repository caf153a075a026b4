"""Conversations in the shape of OpenAI's API, checked.

    {"role": "system" | "developer" | "user", "content": text}
    {"role": "assistant", "content": text or None, "tool_calls": [
        {"id", "type": "function", "function": {"name", "arguments": a JSON object as text}}]}
    {"role": "tool", "content": text, "tool_call_id": id}

A content may also be a list of {"type": "text", "text": ...}, whose texts become lines of one. A
field that is None is taken for absent, any other that is not named here is refused. `name` tells
templates who speaks; Llama's own formats have no place for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, NotRequired, TypeAlias, TypedDict

from .errors import InvalidRequest
from .tokenizer import check_text
from .tools.definitions import Tool, Tools, check_name, check_tools, is_deeper


class Message(TypedDict):
    role: str  # one of ROLES
    content: NotRequired[str | Sequence[Mapping[str, str]] | None]
    tool_calls: NotRequired[Sequence[Mapping[str, Any]] | None]
    tool_call_id: NotRequired[str | None]
    name: NotRequired[str | None]


Messages: TypeAlias = Sequence[Message]

ROLES = ("system", "user", "assistant", "tool", "developer", "ipython")
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "system": ("role", "content", "name"),
    "user": ("role", "content", "name"),
    "assistant": ("role", "content", "name", "tool_calls"),
    "tool": ("role", "content", "name", "tool_call_id"),
}
_SAME = {"developer": "system", "ipython": "tool"}  # OpenAI's newer word, Llama's word


@dataclass(frozen=True, slots=True)
class Call:
    """A call that the assistant made."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """A checked message."""

    index: int  # among the caller's messages
    role: str  # system, user, assistant or tool
    text: str
    calls: tuple[Call, ...] = ()
    call_id: str = ""  # which call a tool answers
    name: str = ""

    def as_message(self) -> dict[str, Any]:
        """As templates expect it: arguments are no text there but an object."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": dict(call.arguments)},
                }
                for call in self.calls
            ]
        if self.call_id:
            message["tool_call_id"] = self.call_id
        if self.name:
            message["name"] = self.name
        return message


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat format writes: checked messages, one or more, and the tools on offer."""

    messages: tuple[Said, ...]
    tools: tuple[Tool, ...] = ()

    @property
    def has_tools(self) -> bool:
        """Whether a format without any idea of tools could not write it."""
        return bool(self.tools) or any(said.calls or said.role == "tool" for said in self.messages)


def check_conversation(messages: Messages, tools: Tools = ()) -> Conversation:
    """Raises InvalidRequest naming the message and the field that cannot be right."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise InvalidRequest(
            'expected a list of at least one message, {"role": ..., "content": ...}, found'
            f" {type(messages).__name__}"
        )
    if not messages:
        raise InvalidRequest("a conversation needs at least one message")
    said = tuple(_check_message(i, message) for i, message in enumerate(messages))
    return Conversation(said, check_tools(tools))


def _check_message(i: int, message: object) -> Said:
    if not isinstance(message, Mapping) or "role" not in message:
        _refuse(i, 'expected {"role": ..., "content": ...}')
    given = message["role"]
    if given not in ROLES:
        _refuse(i, f"role {given!r}, expected one of {', '.join(ROLES)}")
    role = str(_SAME.get(given, given))
    fields = {field: value for field, value in message.items() if value is not None}
    for field in fields:
        if field not in _FIELDS[role]:
            known = ", ".join(_FIELDS[role])
            _refuse(i, f"expected no field {field!r} in a message of role {role}, only {known}")
    calls = _check_calls(i, fields.get("tool_calls", ()))
    if "content" not in fields and not calls:
        missing = "found None" if "content" in message else "there is none"
        _refuse(i, f"expected text (str) or a list of texts as content, {missing}")
    return Said(
        i,
        role,
        _check_content(i, fields.get("content", "")),
        calls,
        _text(i, "tool_call_id", fields.get("tool_call_id", "")),
        _text(i, "name", fields.get("name", "")),
    )


def _check_content(i: int, content: object) -> str:
    if isinstance(content, str | Mapping) or not isinstance(content, Sequence):
        return _text(i, "content", content)
    texts: list[str] = []
    for j, part in enumerate(content):
        where = f"content[{j}]"
        if not isinstance(part, Mapping) or "type" not in part:
            _refuse(i, f'{where}: expected {{"type": "text", "text": ...}}')
        if part["type"] != "text":
            _refuse(i, f'{where}: type {part["type"]!r} cannot be read, only "text"')
        for field, value in part.items():
            if field not in ("type", "text") and value is not None:
                _refuse(i, f"{where}: expected no field {field!r}, only type, text")
        texts.append(_text(i, f"{where}.text", part.get("text")))
    return "\n".join(texts)


def _check_calls(i: int, calls: object) -> tuple[Call, ...]:
    if isinstance(calls, str | Mapping) or not isinstance(calls, Sequence):
        _refuse(i, "tool_calls: expected a list")
    return tuple(_check_call(i, f"tool_calls[{j}]", call) for j, call in enumerate(calls))


def _check_call(i: int, where: str, call: object) -> Call:
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        shape = '{"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}'
        _refuse(i, f"{where}: expected {shape}")
    function = call["function"]
    for field in {**call, **function}:
        if field not in ("id", "type", "index", "function", "name", "arguments"):
            _refuse(i, f"{where}: expected no field {field!r}")
    if call.get("type", "function") != "function":
        _refuse(i, f'{where}: type {call["type"]!r}, only "function" is known')
    name = check_name(f"message {i}: {where}", function.get("name"))
    source = _text(i, f"{where}.function.arguments", function.get("arguments"))
    try:
        arguments = json.loads(source) if source.strip() else {}
        json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()  # no NaN, no halves
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict) or is_deeper(arguments):
        _refuse(
            i, f"{where}.function.arguments: expected a JSON object as text, found {source[:100]!r}"
        )
    return Call(_text(i, f"{where}.id", call.get("id") or ""), name, arguments)


def _text(i: int, where: str, value: object) -> str:
    if not isinstance(value, str):
        _refuse(i, f"{where}: expected text (str), found {type(value).__name__}")
    try:
        check_text(value)
    except InvalidRequest as error:
        _refuse(i, f"{where}: {error}")
    return value


def _refuse(i: int, why: str) -> NoReturn:
    raise InvalidRequest(f"message {i}: {why}")
