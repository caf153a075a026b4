"""POST /v1/completions: a text, or token ids, that goes on.

https://platform.openai.com/docs/api-reference/completions; as there, 16 tokens unless asked
otherwise.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgellama.answer import Token
from edgellama.generate import Generation
from edgellama.llama import Llama

from . import shapes
from .answer_options import AnswerOptions, take_completion_logprobs, take_grammar, take_options
from .events import DONE, EventStream, event
from .exchange import FINGERPRINT, begin, lease, new_id, read, reply
from .failures import FieldError
from .fields import Fields
from .reading import in_turn, tokens_of

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 16

Prompt = str | list[int]


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Prompts and how each is to go on."""

    model: str | None
    prompts: Sequence[Prompt]
    options: AnswerOptions
    echo: bool = False  # begin each text with its prompt
    special: bool = False  # read control tokens written in a prompt as what they say

    def start(self, llama: Llama) -> list[Generation]:
        """`n` answers to the first prompt, then to the next."""
        generations: list[Generation] = []
        for prompt in self.prompts:
            ids = self._ids(llama, prompt)
            generations += self.options.start(
                llama,
                lambda ids=ids, **options: llama.generate(
                    ids, grammar=self.options.grammar, **options
                ),
            )
        return generations

    def _ids(self, llama: Llama, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return prompt
        ids = llama.tokenize(prompt, special=self.special)
        first = llama.tokenizer.bos_id if llama.tokenizer.add_bos else None
        return ids if first is None or ids[:1] == [first] else [first, *ids]

    def echoed(self, llama: Llama, choice: int) -> str:
        """The text with which a choice begins."""
        if not self.echo:
            return ""
        prompt = self.prompts[choice // self.options.n]
        return prompt if isinstance(prompt, str) else llama.detokenize(prompt)


def parse(body: object) -> CompletionRequest:
    """Read a request. Raises InvalidRequest naming the field that cannot be right."""
    fields = Fields(body)
    model = fields.text("model")
    prompts = _prompts(fields.need("prompt"))
    echo = fields.flag("echo")
    special = fields.flag("special")
    if fields.take("best_of") not in (None, 1):
        raise FieldError(
            "best_of", "best_of is not offered: ask for n and choose", "unsupported_parameter"
        )
    options = take_options(
        fields,
        default_max_tokens=DEFAULT_MAX_TOKENS,
        take_logprobs=take_completion_logprobs,
        take_grammar=take_grammar,
    )
    fields.finish()
    if echo and options.logprobs:
        raise FieldError(
            "echo", "echo has no log probabilities of the prompt: leave one of them out"
        )
    return CompletionRequest(model, prompts, options, echo, special)


def _prompts(value: object) -> list[Prompt]:
    """A text, token ids, or a list of either."""
    if isinstance(value, str) or _are_ids(value):
        return [value]  # type: ignore[list-item]
    if (
        isinstance(value, list)
        and 0 < len(value) <= MAX_PROMPTS
        and all(isinstance(prompt, str) or _are_ids(prompt) for prompt in value)
    ):
        return value
    raise FieldError(
        "prompt",
        f"prompt must be a text, a list of token ids, or a list of 1 to {MAX_PROMPTS} of these",
    )


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(type(id) is int for id in value)


async def completions(request: Request) -> Response:
    asked = await read(request, parse)
    async with AsyncExitStack() as stack:
        name, llama = await lease(request, stack, asked.model)
        generations = await begin(request, stack, lambda: asked.start(llama))
        shape = _Shape(asked, name, llama, generations)
        if asked.options.stream:
            return EventStream(shape.chunks(), stack.pop_all())
        return reply(shape.whole([await tokens_of(generation) for generation in generations]))


class _Shape:
    """How the answers to one request look, whole and in chunks: both are text_completion."""

    def __init__(
        self, asked: CompletionRequest, model: str, llama: Llama, generations: Sequence[Generation]
    ) -> None:
        self._asked = asked
        self._llama = llama
        self._generations = generations
        self._envelope = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": int(time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._lengths = [0] * len(generations)  # of the texts so far

    def whole(self, answers: Sequence[Sequence[Token]]) -> dict[str, Any]:
        choices = []
        for i, tokens in enumerate(answers):
            finish = tokens[-1].finish_reason if tokens else None
            choices.append(self._choice(i, tokens, self._asked.echoed(self._llama, i), finish))
        return {
            **self._envelope,
            "choices": choices,
            "usage": self._usage(),
            **self._costs(self._generations[0]),
        }

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        finishes: list[str | None] = [None] * len(self._generations)
        for i in range(len(self._generations) if self._asked.echo else 0):
            yield self._event(self._choice(i, (), self._asked.echoed(self._llama, i)))
        n_left = len(self._generations)
        async for pieces in in_turn(self._generations):
            data = b""
            for i, tokens in pieces:
                if tokens:
                    finishes[i] = tokens[-1].finish_reason
                    choice = self._choice(i, tokens)
                    if choice["text"] or choice["logprobs"]:
                        data += self._event(choice)
                else:
                    end = self._choice(i, (), finish=finishes[i] or "stop")
                    data += self._event(end, **self._costs(self._generations[i]))
                    n_left -= 1
            if not n_left:
                if self._asked.options.include_usage:
                    data += event({**self._envelope, "choices": [], "usage": self._usage()})
                data += DONE
            if data:
                yield data

    def _choice(
        self, index: int, tokens: Sequence[Token], text: str = "", finish: str | None = None
    ) -> dict[str, Any]:
        logprobs = None
        if self._asked.options.logprobs and tokens:
            logprobs = shapes.completion_logprobs(
                self._llama.tokenizer, tokens, self._lengths[index]
            )
        text += "".join([token.text for token in tokens])
        self._lengths[index] += len(text)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _event(self, choice: dict[str, Any], **costs: Any) -> bytes:
        return event({**self._envelope, "choices": [choice], **costs})

    def _usage(self) -> dict[str, Any]:
        firsts = self._generations[:: self._asked.options.n]  # one of each prompt
        return shapes.token_counts(
            sum(generation.prompt_tokens for generation in firsts),
            sum(generation.timings.predicted_n for generation in self._generations),
            sum(generation.timings.cache_n for generation in firsts),
        )

    def _costs(self, generation: Generation) -> dict[str, Any]:
        return shapes.costs(generation, self._asked.options.context_policy)
