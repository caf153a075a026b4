"""Conversations -> prompt tokens, in the format that a model was trained on.

A file's own template (tokenizer.chat_template, Jinja) has the last word. If it renders some sample
conversations exactly as a built-in format does, it is that format (chat_formats.py); any other
template is rendered for each prompt, in a process of its own (chat_file_format.py). Many templates
are a built-in format until tools come in: those leave tools out, and the built-in format puts them
where it has a place, or write them in their own way, and are then followed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .chat_file_format import TemplateFormat, render_all, template_variables
from .chat_format import ChatFormat
from .chat_formats import CHAT_FORMATS, BuiltInFormat
from .chat_messages import ROLES, Conversation, Message, Messages, check_conversation
from .errors import EdgellamaError, InvalidRequest
from .tokenizer import Tokenizer
from .tools.calls import LLAMA_FORM, CallForm
from .tools.definitions import Tools

__all__ = [
    "CHAT_FORMATS",
    "ROLES",
    "BuiltInFormat",
    "ChatFormat",
    "Message",
    "Messages",
    "MixedFormat",
    "TemplateFormat",
    "find_chat_format",
]


@dataclass(frozen=True, slots=True)
class MixedFormat(ChatFormat):
    """A template that is a built-in format as long as no tools are in play."""

    name: str
    stop_strings: tuple[str, ...]
    call_form: CallForm
    plain: BuiltInFormat
    with_tools: TemplateFormat

    @classmethod
    def of(cls, plain: BuiltInFormat, with_tools: TemplateFormat) -> "MixedFormat":
        return cls(plain.name, plain.stop_strings, with_tools.call_form, plain, with_tools)

    def encode(self, tokenizer: Tokenizer, conversation: Conversation, now: datetime) -> list[int]:
        format: ChatFormat = self.with_tools if conversation.has_tools else self.plain
        return format.encode(tokenizer, conversation, now)

    def stop_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        return self.plain.stop_ids(tokenizer) | self.with_tools.stop_ids(tokenizer)


def find_chat_format(tokenizer: Tokenizer, name: str | None = None) -> ChatFormat | None:
    """The named built-in format, else the file's own; None for a base model, which has none.

    Raises InvalidRequest for a name that is unknown or does not fit the vocabulary, and what
    chat_template.render raises for a template that cannot be used.
    """
    if name is not None:
        if name not in CHAT_FORMATS:
            known = ", ".join(CHAT_FORMATS)
            raise InvalidRequest(f"chat format {name!r} is not known; choose one of {known}")
        built_in = CHAT_FORMATS[name]
        built_in.prompt(tokenizer, _SAMPLES[0])  # are all its control tokens there?
        built_in.stop_ids(tokenizer)
        return built_in
    source = tokenizer.chat_template
    if source is None:
        return None
    samples = [(messages, ()) for messages in _SAMPLES] + [(m, t) for m, t in _TOOL_SAMPLES]
    variables = [
        template_variables(source, check_conversation(messages, tools))
        for messages, tools in samples
    ]
    rendered = render_all(source, tokenizer, variables, _SAMPLE_TIME)
    plain, tooled = rendered[: len(_SAMPLES)], rendered[len(_SAMPLES) :]
    template = TemplateFormat(
        source,
        _end_ids(tokenizer, plain),
        shows_tools=isinstance(tooled[0], str) and _TOOL_NAME in tooled[0],
        call_form=_call_form(tooled),
    )
    for built_in in CHAT_FORMATS.values():
        try:
            if plain == [_text(built_in, tokenizer, messages) for messages in _SAMPLES]:
                built_in.stop_ids(tokenizer)
                break
        except InvalidRequest:  # for another vocabulary
            continue
    else:
        return template
    if not template.shows_tools:
        return built_in
    try:
        if tooled == [_text(built_in, tokenizer, m, tools) for m, tools in _TOOL_SAMPLES]:
            return built_in
    except InvalidRequest:  # the vocabulary lacks a control token that only tools need
        pass
    return MixedFormat.of(built_in, template)


def _text(
    built_in: BuiltInFormat, tokenizer: Tokenizer, messages: Messages, tools: Tools = ()
) -> str:
    return built_in.text(tokenizer, messages, tools=tools, now=_SAMPLE_TIME)


# Conversations that tell the formats apart: with and without a system text, whitespace to be
# trimmed or kept, on a day that is no format's default.
_SAMPLE_TIME = datetime(2001, 2, 3)
_ANSWER = "It is 4."
_SAMPLES: Sequence[Messages] = (
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "Hello"}],
    [
        {"role": "system", "content": " Be brief.\n"},
        {"role": "user", "content": "\n 2 + 2?\n\nQuick! "},
        {"role": "assistant", "content": f" {_ANSWER} \n"},
        {"role": "user", "content": " Sure?"},
    ],
    [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Thanks"},
    ],
)

# The same for tools: offered, called, their results told; a tool that Llama 3.1 knows, alone and
# beside another.
_TOOL_NAME = "sample_sum"


def _function(name: str, **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def _called(name: str, arguments: str, result: str) -> list[Message]:
    call = {"id": "call_1", **_function(name, arguments=arguments)}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": result, "tool_call_id": "call_1"},
    ]


_SUM = _function(
    _TOOL_NAME,
    description='The sum of two numbers, "a" and "b".',
    parameters={"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
)
_CALL = re.compile(
    r'((?:<tool_call>\s*)?\{\s*"name": *")'
    + _TOOL_NAME
    + r'(", *"(?:parameters|arguments)": *)\{"b": "é", "a": 2.0\}(\}(?:\s*</tool_call>)?)'
)
_SEARCH = _function("brave_search")
_TOOL_SAMPLES: Sequence[tuple[Messages, Tools]] = (
    ([{"role": "user", "content": " 2 + 2?\n"}], [_SUM]),
    (
        [
            {"role": "system", "content": "Be brief. "},
            {"role": "user", "content": "2 + 2?"},
            *_called(_TOOL_NAME, '{"b": "é", "a": 2.0}', ' {"sum": "4"}\n'),
        ],
        [_SUM, _function("sample_clock")],
    ),
    (
        [
            {"role": "user", "content": "Who?"},
            *_called("brave_search", '{"query": "who"}', "Ada"),
            {"role": "assistant", "content": "Ada."},
            {"role": "user", "content": "Sure?"},
        ],
        [_SEARCH],
    ),
    ([{"role": "user", "content": "Who?"}], [_SEARCH, _SUM, _function("code_interpreter")]),
)


def _call_form(rendered: Sequence[str | EdgellamaError]) -> CallForm:
    """How the template writes a call, where that is a form of JSON that ToolReader knows."""
    for text in rendered:
        match = _CALL.search(text) if isinstance(text, str) else None
        if match is not None:
            opening, middle, closing = match.groups()
            separator = "\n" if "<tool_call>" in opening else LLAMA_FORM.separator
            return CallForm(opening, middle, closing, separator)
    return LLAMA_FORM


def _end_ids(tokenizer: Tokenizer, rendered: Sequence[str | EdgellamaError]) -> frozenset[int]:
    """The control token that the template writes behind an assistant's answer, if it does."""
    ids: set[int] = set()
    for text in rendered:
        if isinstance(text, str) and _ANSWER in text:
            behind = text[text.index(_ANSWER) + len(_ANSWER) :].lstrip()
            first = tokenizer.split(behind)[:1]
            ids.update(id for id in first if isinstance(id, int) and id != tokenizer.bos_id)
    return frozenset(ids)
