"""Answers that come in pieces: server-sent events (https://html.spec.whatwg.org, chapter 9.2)."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgellama.answer import Token
from edgellama.generate import Generation

from . import strict_json

DONE = b"data: [DONE]\n\n"
# All streams together send some 400 times a second, because sending costs more than what is sent:
# alone a stream sends each token at once, of 16 each sends every 40 ms what has become ready.
SEND_S = 0.0025


def event(value: object, name: str | None = None) -> bytes:
    """One event; OpenAI's responses name theirs."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + strict_json.dump(value) + b"\n\n"


class EventStream(Response):
    """Sends what `source` yields, at once; whatever ends it, closes the source and `resources`."""

    media_type = "text/event-stream"
    n_open = 0  # of all servers in the process

    def __init__(self, source: AsyncGenerator[bytes, None], resources: AsyncExitStack) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        EventStream.n_open += 1
        try:
            async with self._resources, aclosing(self._source) as source:
                await send(start)
                async for data in source:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            EventStream.n_open -= 1
        await send({"type": "http.response.body", "body": b""})


async def in_turn(
    generations: Sequence[Generation],
) -> AsyncGenerator[list[tuple[int, list[Token]]], None]:
    """What is ready of several answers: (index, tokens) of each that has some; [] at its end."""
    if len(generations) == 1:  # the usual case needs no tasks
        while True:
            tokens = await generations[0].ready()
            yield [(0, tokens)]
            if not tokens:
                return
            await _pause(tokens)
    waiting = {asyncio.ensure_future(g.ready()): i for i, g in enumerate(generations)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            pieces = sorted((waiting.pop(task), task.result()) for task in done)
            yield pieces
            for i, tokens in pieces:
                if tokens:
                    waiting[asyncio.ensure_future(generations[i].ready())] = i
    finally:
        for task in waiting:
            task.cancel()


async def _pause(tokens: Sequence[Token]) -> None:
    """Let more tokens come, unless these are the last; all streams wake together."""
    n_open = EventStream.n_open
    if n_open > 1 and tokens[-1].finish_reason is None:
        interval = SEND_S * n_open
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(interval - now % interval)


async def tokens_of(generation: Generation) -> list[Token]:
    """All tokens of an answer, once it has ended."""
    tokens: list[Token] = []
    while ready := await generation.ready():
        tokens += ready
    return tokens
