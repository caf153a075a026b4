"""Answers that come in pieces: server-sent events (https://html.spec.whatwg.org, chapter 9.2)."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

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
