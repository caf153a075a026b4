"""Which tools a model is shown, and the grammar that holds it to a caller's choice.

    tool_choice    the model is shown    and may write
    "none"         no tool               text
    "auto"         all                   text or calls; calls of `strict` tools follow their schema
    "required"     all                   one call or, if `parallel`, several; nothing else
    a function     all                   one call of that function; nothing else

Calls are enforced in JSON, as the chat format writes them: {"name": ..., "parameters": ...} in all
that edgellama knows, which either were trained on it or ask for it in words; in a file's own
template as its text of a call shows.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from edgellama.errors import InvalidRequest

from .calls import LLAMA_FORM, CallForm
from .definitions import Tool, Tools, check_tools

if TYPE_CHECKING:
    from edgellama.chat import ChatFormat
    from edgellama.grammar import Grammar

ToolChoice: TypeAlias = str | Mapping[str, Any]

_WORDS = ("none", "auto", "required")


def check_tool_choice(tool_choice: ToolChoice, tools: Sequence[Tool]) -> str | Tool:
    """ "none", "auto", "required" or the tool that is named; raises InvalidRequest for others."""
    if isinstance(tool_choice, Mapping):
        function = tool_choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        if tool_choice.get("type") != "function" or not isinstance(name, str):
            raise InvalidRequest(
                'tool_choice: expected {"type": "function", "function": {"name": ...}}, '
                f"found {dict(tool_choice)!r}"
            )
        for tool in tools:
            if tool.name == name:
                return tool
        raise InvalidRequest(f"tool_choice: no tool is named {name!r}")
    if tool_choice not in _WORDS:
        raise InvalidRequest(
            f"tool_choice {tool_choice!r}: expected one of {', '.join(_WORDS)}, or a function"
        )
    if tool_choice == "required" and not tools:
        raise InvalidRequest("tool_choice is required, but there are no tools to choose from")
    return tool_choice


def shown_tools(tools: Tools, tool_choice: ToolChoice = "auto") -> tuple[Tool, ...]:
    """The checked tools that the prompt shows and whose calls are read; none for "none"."""
    checked = check_tools(tools)
    return () if check_tool_choice(tool_choice, checked) == "none" else checked


def tool_grammar(
    tools: Tools,
    tool_choice: ToolChoice = "auto",
    chat_format: "ChatFormat | None" = None,
    parallel: bool = True,
) -> "Grammar | None":
    """What an answer must be to follow `tool_choice`; None where any text will do.

    Raises InvalidRequest naming the tool and what of its schema cannot be enforced.
    chat_format: whose form of calls is enforced; None stands for Llama's.
    """
    checked = check_tools(tools)
    choice = check_tool_choice(tool_choice, checked)
    form = LLAMA_FORM if chat_format is None else chat_format.call_form
    if isinstance(choice, Tool):
        return _grammar([choice], form, several=False)
    if choice == "required":
        return _grammar(checked, form, several=parallel)
    if choice == "auto" and any(tool.strict for tool in checked):
        return _grammar(checked, form, several=parallel, or_text=True)
    return None


def _grammar(
    tools: Sequence[Tool], form: CallForm, *, several: bool, or_text: bool = False
) -> "Grammar":
    from edgellama.grammar import Grammar

    rules = ["start: calls | TEXT" if or_text else "start: calls"]
    more = f" ({json.dumps(form.separator)} call)*" if several else ""
    rules.append(f"calls: call{more}")
    rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(tools))))
    for i, tool in enumerate(tools):
        free = or_text and not tool.strict
        schema: Mapping[str, Any] = {"type": "object"} if free else tool.parameters
        opening, closing = (
            json.dumps(form.opening + tool.name + form.middle),
            json.dumps(form.closing),
        )
        rules.append(f"call_{i}: {opening} arguments_{i} {closing}")
        rules.append(f"arguments_{i}: %json {json.dumps(schema)}")
    if or_text:
        rules.append(_text_beside_calls(tools, form))
    try:
        grammar = Grammar.lark("\n".join(rules))
        return replace(grammar, json_behind=form.opening.encode())
    except InvalidRequest:
        for tool in tools:
            _check_enforceable(tool)
        raise


def _check_enforceable(tool: Tool) -> None:
    from edgellama.grammar import Grammar

    try:
        Grammar.json_schema(dict(tool.parameters))
    except InvalidRequest as error:
        raise InvalidRequest(f"tool {tool.name}: parameters: {error}") from None


def _text_beside_calls(tools: Sequence[Tool], form: CallForm) -> str:
    """The rule of any text in which no call of a strict tool would be found.

    Nor does it begin as a call of any tool: what follows must decide between the two at once.
    """
    strict = _any_name([tool for tool in tools if tool.strict])
    space = r"[ \t\r\n]*"
    calls = (
        rf'"(name|function)"{space}:{space}"{strict}"',
        rf"<function={strict}>",
        rf"[\[,]{space}{strict}\(",
        rf"{strict}\.call\(",
    )
    opening = "".join(f"\\x{byte:02x}" for byte in form.opening.encode("ascii"))
    begins = rf'/{opening}{_any_name(tools)}"(?s:.*)/'
    return f"TEXT: /(?s:.*)/ & ~{begins} & ~/(?s:.*)({'|'.join(calls)})(?s:.*)/"


def _any_name(tools: Sequence[Tool]) -> str:
    return "(" + "|".join(re.escape(tool.name) for tool in tools) + ")"
