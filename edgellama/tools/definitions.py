"""The tools that a caller offers: OpenAI's shape, checked.

    {"type": "function",
     "function": {"name", "description"?: text, "parameters"?: JSON schema, "strict"?: bool}}

Three names mean tools that Llama 3.1 was trained to use without being told of them, if their
parameters are left out or are the one text that they take: brave_search(query),
wolfram_alpha(query) and code_interpreter(code). Any other function that is left without parameters
takes none.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from edgellama.errors import InvalidRequest

Tools: TypeAlias = Sequence[Mapping[str, Any]]

MAX_TOOLS = 128  # as OpenAI
MAX_DEPTH = 64  # of lists and objects in each other
BUILT_IN_PARAMETERS = {
    "brave_search": "query",
    "wolfram_alpha": "query",
    "code_interpreter": "code",
}
CODE_NAMES = ("code_interpreter", "python")  # take what a model writes behind <|python_tag|>
_NO_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHAPE = '{"type": "function", "function": {"name": ..., "parameters": ...}}'


@dataclass(frozen=True, slots=True)
class Tool:
    """One checked tool."""

    name: str
    shown: Mapping[str, Any]  # what a model reads: the caller's, without `strict`
    parameters: Mapping[str, Any]  # JSON schema of an object
    strict: bool = False  # arguments must follow the schema

    @property
    def properties(self) -> Mapping[str, Any]:
        properties = self.parameters.get("properties")
        return properties if isinstance(properties, Mapping) else {}

    @property
    def built_in(self) -> bool:
        """Whether it is one of Llama 3.1's own."""
        own = BUILT_IN_PARAMETERS.get(self.name)
        return own is not None and set(self.properties) == {own}

    @property
    def takes_code(self) -> bool:
        """Whether bare Python behind <|python_tag|> is a call of this tool."""
        return self.name in CODE_NAMES and "code" in self.properties


def check_tools(tools: Tools) -> tuple[Tool, ...]:
    """The tools; raises InvalidRequest naming the tool and the field that cannot be right."""
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise InvalidRequest(f"tools: expected a list of {_SHAPE}")
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"tools: {len(tools):,} tools, at most {MAX_TOOLS} are taken")
    checked = tuple(_check_tool(i, tool) for i, tool in enumerate(tools))
    names = [tool.name for tool in checked]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise InvalidRequest(
                f"tool {i}: the name {name!r} is taken by tool {names.index(name)}"
            )
    return checked


def check_name(where: str, name: object) -> str:
    """A function's name; raises InvalidRequest for what OpenAI would refuse."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{where}: the name {name!r} must be 1 to 64 letters, digits, underscores or dashes"
        )
    return name


def _check_tool(i: int, tool: object) -> Tool:
    where = f"tool {i}"
    if not isinstance(tool, Mapping) or not isinstance(tool.get("function"), Mapping):
        raise InvalidRequest(f"{where}: expected {_SHAPE}")
    if tool.get("type") != "function":
        raise InvalidRequest(
            f'{where}: type {tool.get("type")!r}, only "function" is known: a tool is a function'
        )
    _refuse_unknown(where, tool, ("type", "function"))
    function = tool["function"]
    _refuse_unknown(f"{where}: function", function, ("name", "description", "parameters", "strict"))
    name = check_name(where, function.get("name"))
    where = f"tool {i} ({name})"
    description, strict = function.get("description"), function.get("strict")
    if description is not None and not isinstance(description, str):
        raise InvalidRequest(f"{where}: description: expected text")
    if strict is not None and not isinstance(strict, bool):
        raise InvalidRequest(f"{where}: strict: expected true or false")
    shown = {key: value for key, value in function.items() if key != "strict" and value is not None}
    parameters = shown.get("parameters")
    if parameters is None:
        parameters = _NO_PARAMETERS
        if name in BUILT_IN_PARAMETERS:
            parameters = shown["parameters"] = _one_text(BUILT_IN_PARAMETERS[name])
    elif not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise InvalidRequest(
            f'{where}: parameters: expected the JSON schema of an object, {{"type": "object", ...}}'
        )
    _check_json(where, shown)
    schema = {"type": "object", **parameters}
    return Tool(name, {"type": "function", "function": shown}, schema, bool(strict))


def _one_text(name: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}


def is_deeper(value: object, n: int = MAX_DEPTH) -> bool:
    """Whether lists and objects stand in each other more than `n` deep."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return False
    return n == 0 or any(is_deeper(item, n - 1) for item in value)


def _check_json(where: str, value: object) -> None:
    """Raises InvalidRequest for what JSON, or UTF-8, cannot spell."""
    if is_deeper(value):
        raise InvalidRequest(f"{where}: its schema is more than {MAX_DEPTH} levels deep")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{where}: its text holds a lone surrogate") from None
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{where}: cannot be written as JSON: {error}") from None


def _refuse_unknown(where: str, given: Mapping[str, object], known: Sequence[str]) -> None:
    for field, value in given.items():
        if field not in known and value is not None:
            raise InvalidRequest(
                f"{where}: the field {field!r} is not known; expected {', '.join(known)}"
            )
