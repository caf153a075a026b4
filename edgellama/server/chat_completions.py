"""POST /v1/chat/completions: https://platform.openai.com/docs/api-reference/chat

A request is read into a `ChatRequest`; its answers leave whole, or as chunks while they grow.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgellama.answer import Token
from edgellama.chat import Messages
from edgellama.generate import Generation
from edgellama.llama import Llama
from edgellama.tokenizer import Tokenizer
from edgellama.tools import CallStart, Delta, TextDelta, ToolChoice, Tools, shown_tools, text_of

from . import shapes, strict_json
from .answer_options import AnswerOptions, take_chat_logprobs, take_grammar, take_options
from .call_reader import CallReader
from .events import DONE, EventStream, event
from .exchange import FINGERPRINT, begin, lease, new_id, read, reply
from .failures import FieldError
from .fields import Fields
from .reading import in_turn, tokens_of


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation and how it is to go on."""

    model: str | None
    messages: Messages
    options: AnswerOptions
    tools: Tools = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True

    def __post_init__(self) -> None:
        if self.tool_choice in ("auto", "none"):
            return
        if not self.tools:
            raise FieldError("tool_choice", "tool_choice asks for a call, but there are no tools")
        if self.options.grammar is not None:
            raise FieldError("tool_choice", "a call that must be made leaves no room for a format")

    def start(self, llama: Llama) -> list[Generation]:
        """The answers, begun."""
        return self.options.start(
            llama,
            lambda **options: llama.stream_chat(
                self.messages,
                tools=self.tools,
                tool_choice=self.tool_choice,
                parallel_tool_calls=self.parallel_tool_calls,
                grammar=self.options.grammar,
                **options,
            ),
        )

    def reader(self, tokenizer: Tokenizer) -> CallReader | None:
        """What finds calls in an answer; None where there is nothing to call."""
        shown = shown_tools(self.tools, self.tool_choice)
        return CallReader(tokenizer, shown, self.parallel_tool_calls) if shown else None


def parse(body: object) -> ChatRequest:
    """Read a request. Raises InvalidRequest naming the field that cannot be right."""
    fields = Fields(body)
    model = fields.text("model")
    messages = fields.need("messages")
    if not isinstance(messages, list) or not messages:
        raise fields.wrong("messages", "a list of messages, one at least", messages)
    tools = fields.items("tools") or []
    tool_choice = fields.take("tool_choice", "auto")
    parallel = fields.flag("parallel_tool_calls", True)
    options = take_options(
        fields,
        max_tokens_names=("max_tokens", "max_completion_tokens"),
        take_logprobs=take_chat_logprobs,
        take_grammar=take_grammar,
    )
    fields.finish()
    return ChatRequest(model, messages, options, tools, tool_choice, parallel)


async def chat_completions(request: Request) -> Response:
    asked = await read(request, parse)
    async with AsyncExitStack() as stack:
        name, llama = await lease(request, stack, asked.model)
        generations = await begin(request, stack, lambda: asked.start(llama))
        shape = _Shape(asked, name, llama.tokenizer, generations)
        if asked.options.stream:
            return EventStream(shape.chunks(), stack.pop_all())
        return reply(shape.whole([await tokens_of(generation) for generation in generations]))


class _Shape:
    """How the answers to one request look."""

    def __init__(
        self,
        asked: ChatRequest,
        model: str,
        tokenizer: Tokenizer,
        generations: Sequence[Generation],
    ) -> None:
        self.asked = asked
        self.tokenizer = tokenizer
        self._generations = generations
        self._envelope = {
            "id": new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": int(time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self, answers: Sequence[Sequence[Token]]) -> dict[str, Any]:
        """A chat.completion."""
        return {
            **self._envelope,
            "choices": [self._choice(i, tokens) for i, tokens in enumerate(answers)],
            "usage": shapes.usage(self._generations),
            **self.costs(self._generations[0]),
        }

    def _choice(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        text = "".join(token.text for token in tokens)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        finish: str | None = tokens[-1].finish_reason if tokens else None
        reader = self.asked.reader(self.tokenizer)
        if reader is not None:
            text = text_of(reader.push(tokens) + reader.finish())
            message["content"] = text
            if reader.calls:
                finish = _with_calls(finish)
                message["content"] = text or None
                message["tool_calls"] = [call.as_openai() for call in reader.calls]
        return {
            "index": index,
            "message": message,
            "logprobs": self.logprobs(tokens),
            "finish_reason": finish,
        }

    def logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.asked.options.logprobs:
            return None
        return {"content": shapes.chat_logprobs(self.tokenizer, tokens), "refusal": None}

    def costs(self, generation: Generation) -> dict[str, Any]:
        return shapes.costs(generation, self.asked.options.context_policy)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """chat.completion.chunk events: roles, what the answers say, their ends, usage."""
        envelope = self._envelope | {"object": "chat.completion.chunk"}
        answers = [_Chunks(self, envelope, i, g) for i, g in enumerate(self._generations)]
        yield b"".join(answer.opening() for answer in answers)
        closing = DONE
        n_left = len(answers)
        async for pieces in in_turn(self._generations):
            data = b"".join([answers[i].push(tokens) for i, tokens in pieces])
            n_left -= sum(not tokens for _, tokens in pieces)
            if not n_left and self.asked.options.include_usage:
                usage = shapes.usage(self._generations)
                closing = event({**envelope, "choices": [], "usage": usage}) + DONE
            if data:
                yield data if n_left else data + closing


class _Chunks:
    """One answer in chunks. Most differ in their text alone: what surrounds it is written once."""

    def __init__(
        self, shape: _Shape, envelope: Mapping[str, Any], index: int, generation: Generation
    ) -> None:
        self._shape = shape
        self._envelope = envelope
        self._index = index
        self._generation = generation
        self._reader = shape.asked.reader(shape.tokenizer)
        self._untold: list[Token] = []  # whose log probabilities wait for a chunk
        self._finish: str | None = None
        chunk, mark = self._event({"content": ""}), b'"delta":{"content":'
        cut = chunk.index(mark) + len(mark)
        self._before, self._after = chunk[:cut], chunk[cut + len(b'""') :]

    def opening(self) -> bytes:
        return self._event({"role": "assistant", "content": ""})

    def push(self, tokens: Sequence[Token]) -> bytes:
        """Events for new tokens; for none, the end."""
        if not tokens:
            return self._end()
        self._finish = tokens[-1].finish_reason
        if self._reader is not None:
            return self._events(self._reader.push(tokens), tokens)
        text = "".join([token.text for token in tokens])
        if self._shape.asked.options.logprobs:
            return self._events([TextDelta(text)], tokens)
        return self._before + strict_json.dump(text) + self._after if text else b""

    def _events(self, deltas: Sequence[Delta], tokens: Sequence[Token]) -> bytes:
        self._untold += tokens
        events = b""
        for delta in deltas:
            events += self._event(_as_openai(delta), self._shape.logprobs(self._untold))
            self._untold.clear()
        return events

    def _end(self) -> bytes:
        events = b""
        if self._reader is not None:
            events = self._events(self._reader.finish(), ())
            if self._reader.calls:
                self._finish = _with_calls(self._finish)
        logprobs = self._shape.logprobs(self._untold) if self._untold else None
        costs = self._shape.costs(self._generation)
        return events + self._event({}, logprobs, self._finish or "stop", costs)

    def _event(
        self,
        delta: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        finish: str | None = None,
        costs: Mapping[str, Any] | None = None,
    ) -> bytes:
        choice = {
            "index": self._index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }
        return event({**self._envelope, "choices": [choice], **(costs or {})})


def _with_calls(finish: str | None) -> str | None:
    """Why an answer with calls ended; one that was cut off says so."""
    return "tool_calls" if finish == "stop" else finish


def _as_openai(delta: Delta) -> dict[str, Any]:
    """A chunk's delta."""
    if isinstance(delta, TextDelta):
        return {"content": delta.text}
    call: dict[str, Any] = {"index": delta.index}
    if isinstance(delta, CallStart):
        call |= {"id": delta.id, "type": "function"}
        call["function"] = {"name": delta.name, "arguments": ""}
    else:
        call["function"] = {"arguments": delta.fragment}
    return {"tool_calls": [call]}
