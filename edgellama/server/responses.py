"""POST /v1/responses: https://platform.openai.com/docs/api-reference/responses

Stateless: nothing is stored, a conversation is sent whole each time. A request becomes a
`ChatRequest`; what is written becomes output items and the events that tell of them.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from time import time
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from edgellama.answer import Token
from edgellama.generate import Generation
from edgellama.tokenizer import Tokenizer
from edgellama.tools import Delta, TextDelta

from . import shapes
from .answer_options import response_format, schema_of, take_options
from .chat_completions import ChatRequest
from .events import EventStream, event
from .exchange import begin, lease, new_id, read, reply
from .failures import FieldError
from .fields import Fields
from .output_items import OutputItems
from .reading import pieces, tokens_of

if TYPE_CHECKING:
    from edgellama.grammar import Grammar

_LOGPROBS = "message.output_text.logprobs"  # what `include` can ask for
_TEXT_PARTS = ("input_text", "output_text", "text")
_POLICIES = {"disabled": "error", "auto": "truncate-oldest"}


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A chat, and what a response repeats of its request."""

    chat: ChatRequest
    repeated: Mapping[str, Any]


def parse(body: object) -> ResponseRequest:
    """Read a request. Raises InvalidRequest naming the field that cannot be right."""
    fields = Fields(body)
    given = dict(body) if isinstance(body, dict) else {}
    model = fields.text("model")
    messages = _messages(fields.text("instructions"), fields.need("input"))
    tools = [_as_chat_tool(i, tool) for i, tool in enumerate(fields.items("tools") or [])]
    choice = fields.take("tool_choice", "auto")
    if isinstance(choice, dict) and choice.get("type") == "function" and "name" in choice:
        choice = {"type": "function", "function": {"name": choice["name"]}}
    parallel = fields.flag("parallel_tool_calls", True)
    truncation = fields.choice("truncation", tuple(_POLICIES), "disabled")
    fields.whole("n", 1, 1)
    options = take_options(
        fields,
        max_tokens_names=("max_output_tokens",),
        take_logprobs=_take_logprobs,
        take_grammar=_take_grammar,
    )
    fields.finish()
    if truncation != "disabled":
        options = replace(options, context_policy=_POLICIES[truncation])
    repeated = {
        "instructions": given.get("instructions"),
        "max_output_tokens": options.max_tokens,
        "metadata": given.get("metadata") or {},
        "parallel_tool_calls": parallel,
        "temperature": given.get("temperature"),
        "text": given.get("text") or {"format": {"type": "text"}},
        "tool_choice": given.get("tool_choice") or "auto",
        "tools": given.get("tools") or [],
        "top_p": given.get("top_p"),
        "truncation": truncation,
    }
    return ResponseRequest(ChatRequest(model, messages, options, tools, choice, parallel), repeated)


def _messages(instructions: str | None, input: object) -> list[Any]:
    """The conversation as chat completions have it."""
    messages: list[Any] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    items = [{"role": "user", "content": input}] if isinstance(input, str) else input
    if not isinstance(items, list):
        raise FieldError("input", "input must be a text or a list of items")
    for i, item in enumerate(items):
        where = f"input[{i}]"
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind == "message":
            message = {"role": item.get("role"), "content": _text(where, item.get("content"))}
            messages.append(message)
        elif kind == "function_call":
            if not messages or "tool_calls" not in messages[-1]:
                messages.append({"role": "assistant", "content": None, "tool_calls": []})
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            messages[-1]["tool_calls"].append(call)
        elif kind == "function_call_output":
            content = _text(where, item.get("output"))
            messages.append(
                {"role": "tool", "tool_call_id": item.get("call_id"), "content": content}
            )
        else:
            raise FieldError(
                where,
                f"{where} must be a message, a function_call or a function_call_output",
                "unsupported_parameter",
            )
    return messages


def _text(where: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, dict)
        and part.get("type") in _TEXT_PARTS
        and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    raise FieldError(where, f"{where} must hold text: this server reads nothing else")


def _as_chat_tool(i: int, tool: object) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise FieldError(
            f"tools[{i}]", f"tools[{i}] must be a function: no other kind of tool is there"
        )
    function = {name: value for name, value in tool.items() if name != "type"}
    return {"type": "function", "function": function}


def _take_logprobs(body: Fields) -> tuple[bool, int]:
    include = body.items("include") or []
    for wish in include:
        if wish != _LOGPROBS:
            raise body.wrong("include", f"a list of nothing but {_LOGPROBS!r}", wish)
    top = body.whole("top_logprobs", 0, 20) or 0
    return bool(include) or top > 0, top


def _take_grammar(body: Fields) -> "Grammar | None":
    text = body.part("text")
    if text is None:
        return None
    text.choice("verbosity", ("medium",), "medium")
    format = text.part("format")
    text.finish()
    if format is not None and "schema" in format:  # here its fields lie beside the type
        format.choice("type", ("json_schema",), "")
        return schema_of(format)
    return response_format(format)


async def responses(request: Request) -> Response:
    asked = await read(request, parse)
    async with AsyncExitStack() as stack:
        name, llama = await lease(request, stack, asked.chat.model)
        generations = await begin(request, stack, lambda: asked.chat.start(llama))
        shape = _Shape(asked, name, llama.tokenizer, generations[0])
        if asked.chat.options.stream:
            return EventStream(shape.events(), stack.pop_all())
        return reply(shape.whole(await tokens_of(generations[0])))


class _Shape:
    """How the answer to one request looks, at each moment."""

    def __init__(
        self, asked: ResponseRequest, model: str, tokenizer: Tokenizer, generation: Generation
    ) -> None:
        self._asked = asked
        self._tokenizer = tokenizer
        self._generation = generation
        self._reader = asked.chat.reader(tokenizer)
        self._items = OutputItems()
        self._number = 0  # of the next event
        self._envelope = {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time()),
            "model": model,
            "error": None,
            "previous_response_id": None,
            "store": False,
            **asked.repeated,
        }

    def whole(self, tokens: Sequence[Token]) -> dict[str, Any]:
        self._items.push(self._deltas(tokens), self._logprobs(tokens))
        return self._end(tokens[-1].finish_reason if tokens else None)

    async def events(self) -> AsyncGenerator[bytes, None]:
        begun = self._response("in_progress")
        yield self._events([{"type": "response.created", "response": begun}])
        yield self._events([{"type": "response.in_progress", "response": begun}])
        finish = None
        async for tokens in pieces(self._generation):
            finish = tokens[-1].finish_reason
            data = self._events(self._items.push(self._deltas(tokens), self._logprobs(tokens)))
            if data:
                yield data
        if self._reader is not None:
            yield self._events(self._items.push(self._reader.finish(), []))
        status = "incomplete" if finish == "length" else "completed"
        closing = self._items.finish(status)
        last = {"type": f"response.{status}", "response": self._end(finish)}
        yield self._events([*closing, last])

    def _deltas(self, tokens: Sequence[Token]) -> list[Delta]:
        if self._reader is None:
            return [TextDelta("".join([token.text for token in tokens]))]
        return self._reader.push(tokens)

    def _logprobs(self, tokens: Sequence[Token]) -> list[dict[str, Any]]:
        if not self._asked.chat.options.logprobs:
            return []
        return shapes.chat_logprobs(self._tokenizer, tokens)

    def _end(self, finish: str | None) -> dict[str, Any]:
        """The response when nothing more will come."""
        if self._reader is not None:
            self._items.push(self._reader.finish(), [])
        status = "incomplete" if finish == "length" else "completed"
        self._items.finish(status)
        counts = shapes.usage([self._generation])
        return self._response(status) | {
            "usage": {
                "input_tokens": counts["prompt_tokens"],
                "input_tokens_details": counts["prompt_tokens_details"],
                "output_tokens": counts["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": counts["total_tokens"],
            },
            **shapes.costs(self._generation, self._asked.chat.options.context_policy),
        }

    def _response(self, status: str) -> dict[str, Any]:
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            **self._envelope,
            "status": status,
            "incomplete_details": details,
            "output": list(self._items.items),
        }

    def _events(self, events: Sequence[dict[str, Any]]) -> bytes:
        data = b""
        for made in events:
            data += event(made | {"sequence_number": self._number}, made["type"])
            self._number += 1
        return data
