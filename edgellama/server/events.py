"""Answers that come in pieces: server-sent events (https://html.spec.whatwg.org, chapter 9.2)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edgellama.answer import Token
from edgellama.generate import Generation

from . import strict_json

DONE = b"data: [DONE]\n\n"


def event(value: object, name: str | None = None) -> bytes:
    """One event; OpenAI's responses name theirs."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + strict_json.dump(value) + b"\n\n"


class EventStream(Response):
    """Sends what `source` yields, at once; whatever ends it, closes the source and `resources`."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[bytes, None], resources: AsyncExitStack) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with self._resources, aclosing(self._source) as source:
            await send(start)
            async for data in source:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def in_turn(
    generations: Sequence[Generation],
) -> AsyncIterator[list[tuple[int, list[Token]]]]:
    """What is ready of several answers: (index, tokens) of each that has some; [] at its end.

    All of it at once, so that it leaves in one piece.
    """
    if len(generations) == 1:  # the usual case needs no tasks
        while True:
            tokens = await generations[0].ready()
            yield [(0, tokens)]
            if not tokens:
                return
    waiting = {asyncio.ensure_future(g.ready()): i for i, g in enumerate(generations)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            pieces = sorted((waiting.pop(task), task.result()) for task in done)
            for i, tokens in pieces:
                if tokens:
                    waiting[asyncio.ensure_future(generations[i].ready())] = i
            yield pieces
    finally:
        for task in waiting:
            task.cancel()


async def tokens_of(generation: Generation) -> list[Token]:
    """All tokens of an answer, once it has ended."""
    tokens: list[Token] = []
    while ready := await generation.ready():
        tokens += ready
    return tokens
