"""A model file's own template as a chat format: rendered for each prompt, and guarded.

The template, a program by a stranger, runs in a process of its own (chat_template.py) and gives one
text, in which the control tokens that it wrote must be told from those that somebody wrote in a
message, a tool's description or a result. So every text goes in with marks inside what looks like a
control token; they are taken out once the template's own control tokens have been found.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from .chat_format import ChatFormat
from .chat_formats import tools_in_words
from .chat_messages import Conversation
from .chat_template import render
from .errors import EdgellamaError, InvalidRequest
from .tokenizer import Tokenizer
from .tools.calls import LLAMA_FORM, CallForm
from .tools.definitions import BUILT_IN_PARAMETERS

# In tools and calls: words that templates compare with, and nobody's own.
_WORDS = {
    *("type", "function", "name", "description", "parameters", "arguments", "id"),
    *("properties", "required", "items", "enum", "anyOf", "default", "additionalProperties"),
    *("object", "array", "string", "number", "integer", "boolean", "null"),
    *BUILT_IN_PARAMETERS,
}


@dataclass(frozen=True, slots=True)
class TemplateFormat(ChatFormat):
    """A template that is no built-in format: rendered by the helper process at every prompt."""

    source: str
    end_ids: frozenset[int] = frozenset()  # seen behind an answer, beyond the vocabulary's own
    shows_tools: bool = True  # else it leaves them out, and they are put in words
    call_form: CallForm = LLAMA_FORM
    name: str = "template"
    stop_strings: tuple[str, ...] = ()

    def encode(self, tokenizer: Tokenizer, conversation: Conversation, now: datetime) -> list[int]:
        if not self.shows_tools:
            conversation = tools_in_words(conversation)
        variables = template_variables(self.source, conversation)
        mark = _unused_character([self.source, *_texts_in(variables)])
        guarded = [
            _guarded_variables(
                variables, partial(guard, control_tokens=tokenizer.control_tokens, mark=mark)
            )
            for guard in (_guard, _guard_strictly)
        ]
        texts = render_all(self.source, tokenizer, guarded, now)
        runs, strict_runs = (
            # JSON that is all ASCII spells the mark out.
            tokenizer.split(text.replace(json.dumps(mark)[1:-1], mark))
            for text in _raising(texts)
        )
        if _controls(runs) != _controls(strict_runs):
            raise InvalidRequest(
                "in this file's chat template a message would turn into a control token; "
                "reword it or name a built-in chat format"
            )
        ids: list[int] = []
        for run in runs:
            ids.extend([run] if isinstance(run, int) else tokenizer.encode(run.replace(mark, "")))
        return ids

    def stop_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        return tokenizer.stop_ids | self.end_ids


def template_variables(source: str, conversation: Conversation) -> dict[str, Any]:
    """What the template reads of a conversation: messages, tools and, if it asks, builtin_tools."""
    built_in = [tool for tool in conversation.tools if tool.built_in and "builtin_tools" in source]
    others = [tool.shown for tool in conversation.tools if tool not in built_in]
    variables: dict[str, Any] = {
        "messages": [said.as_message() for said in conversation.messages],
        "tools": others or None,
    }
    if built_in:
        variables["builtin_tools"] = [tool.name for tool in built_in]
    return variables


def render_all(
    source: str, tokenizer: Tokenizer, conversations: Sequence[Mapping[str, Any]], now: datetime
) -> list[str | EdgellamaError]:
    """The template's texts, each with BOS in front if the vocabulary wants it there."""
    bos, eos = (
        "" if id is None else tokenizer.piece(id).decode(errors="replace")
        for id in (tokenizer.bos_id, tokenizer.eos_id)
    )
    texts = render(source, conversations, now=now, bos_token=bos, eos_token=eos)
    lead = bos if tokenizer.add_bos else ""
    return [
        lead + text if isinstance(text, str) and not text.startswith(lead) else text
        for text in texts
    ]


def _raising(results: Sequence[str | EdgellamaError]) -> list[str]:
    """The results; raises the first that is an error."""
    texts: list[str] = []
    for result in results:
        if isinstance(result, EdgellamaError):
            raise result
        texts.append(result)
    return texts


def _controls(runs: Sequence[str | int]) -> list[int]:
    return [run for run in runs if isinstance(run, int)]


def _unused_character(texts: Iterable[str]) -> str:
    """A private-use character that occurs in none of the texts, not even as JSON spells it."""
    text = "\n".join(texts)
    used = set(text)
    return next(
        c
        for c in map(chr, range(0xF0000, 0xFFFFE))
        if c not in used and json.dumps(c)[1:-1] not in text
    )


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts_in(key)
            yield from _texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts_in(item)


def _guarded_variables(variables: Mapping[str, Any], guard: Callable[[str], str]) -> dict[str, Any]:
    """`variables` with every text guarded but the roles."""
    unguarded: dict[str, Callable[[Any], Any]] = {"role": str, "content": guard}
    messages = [
        {
            field: unguarded.get(field, lambda value: _guarded(value, guard))(value)
            for field, value in message.items()
        }
        for message in variables["messages"]
    ]
    return {name: _guarded(value, guard) for name, value in variables.items()} | {
        "messages": messages
    }


def _guarded(value: Any, guard: Callable[[str], str]) -> Any:
    """A tool or a call with every text in it guarded, the names in its objects too."""
    if isinstance(value, str):
        return value if value in _WORDS else guard(value)
    if isinstance(value, Mapping):
        return {_guarded(str(key), guard): _guarded(item, guard) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_guarded(item, guard) for item in value]
    return value


def _guard(content: str, control_tokens: Mapping[str, int], mark: str) -> str:
    """`content` with `mark` inside every control token that is written in it.

    To the template the rest is as it was, so that trimming and searching work.
    """
    for token in sorted(control_tokens, key=len):  # the short ones first: they lie in longer ones
        while token in content:
            content = content.replace(token, token[0] + mark + token[1:])
    return content


def _guard_strictly(content: str, control_tokens: Mapping[str, int], mark: str) -> str:
    """`content` with so many marks that no template can make a control token of its characters.

    A template that glues its own text to a message, or takes something out of it, might: then the
    control tokens are not the same as with _guard.
    """
    for first in {token[0] for token in control_tokens}:
        content = content.replace(first, first + mark)
    body = content.strip()
    return content.replace(body, mark + body + mark, 1) if body else content
