"""The door: every request passes here before a handler sees it, and every answer after.

    Host, Origin, key --> content type, body (bytes, JSON is the handler's) --> handler
    handler's end: answered | failed (an error in OpenAI's shape) | the client left | out of time

A handler is cancelled as soon as its client is gone, whether it streams or not. One line a request
goes to the log: never a prompt, a key or a query string.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import strict_json
from .access import Access
from .failures import ApiError, tell
from .settings import Settings

MAX_BODY_BYTES = 8 << 20
OPEN_PATHS = frozenset(("/", "/health", "/v1/health"))  # and the page's files: no key is asked for
PAGE_SUFFIXES = (".html", ".css", ".js", ".svg")

log = logging.getLogger("edgellama.server")


class Door:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings, answered: Counter[int]) -> None:
        """answered: counts the answers by their status."""
        self._app = app
        self._answered = answered
        self._access = Access(settings)
        self._timeout_s = settings.timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        answer = _Answer(send)
        headers = Headers(scope)
        try:
            self._check(scope, headers)
            self._add_cors(answer, headers)
            if scope["method"] == "OPTIONS":
                await answer.reply(204, _preflight(headers))
                return
            body = await _read_body(headers, receive)
            async with asyncio.timeout(self._timeout_s):
                await self._run(scope, body, receive, answer)
        except _ClientGone:
            answer.status = answer.status or 499  # nginx's number for it
        except asyncio.CancelledError:  # the server ends
            await answer.fail(ApiError(503, "the server is shutting down", code="shutting_down"))
            raise
        except Exception as error:
            told = tell(error, _path(scope))
            self._add_cors(answer, headers)
            await answer.fail(told)
        finally:
            self._answered[answer.status] += 1
            _log_request(scope, answer, perf_counter() - began)

    def _check(self, scope: Scope, headers: "Headers") -> None:
        """Raise the ApiError with which a request is sent away."""
        if scope["http_version"] not in ("1.0", "1.1"):
            raise ApiError(505, "this server speaks HTTP/1.1", headers={"connection": "close"})
        if headers.get("content-length") is not None and "transfer-encoding" in headers.names:
            raise ApiError(
                400,
                "the request has both Content-Length and Transfer-Encoding",
                headers={"connection": "close"},
            )
        host = headers.get("host") or ""
        if not self._access.host_allowed(host):
            raise ApiError(
                403,
                f"this server is not called {_printable(host)!r}; if it should be, start it with"
                " --allow-host NAME",
                code="host_not_allowed",
            )
        method, origin = scope["method"], headers.get("origin")
        if method not in ("GET", "HEAD") and not self._access.origin_allowed(origin, host):
            raise ApiError(
                403,
                f"pages from {_printable(origin or '')!r} may not ask here; if they should, start"
                " the server with --allow-origin ORIGIN",
                code="origin_not_allowed",
            )
        if method == "OPTIONS":  # carries no key
            if origin is None or not self._access.foreign_origin_allowed(origin):
                raise ApiError(405, "OPTIONS is for pages of another origin that may ask")
            return
        if not _is_open(scope) and not self._access.key_accepted(headers.get("authorization")):
            raise ApiError(
                401,
                "the API key is missing or wrong: send the header Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def _add_cors(self, answer: "_Answer", headers: "Headers") -> None:
        origin = headers.get("origin")
        if origin is not None and self._access.foreign_origin_allowed(origin):
            answer.extra_headers = [
                (b"access-control-allow-origin", origin.encode("latin-1")),
                (b"vary", b"origin"),
            ]

    async def _run(self, scope: Scope, body: bytes, receive: Receive, answer: "_Answer") -> None:
        """Run the handler until it has answered; cancel it when its client goes."""
        gone = asyncio.Event()
        handed_over = False

        async def hand_over() -> Message:
            nonlocal handed_over
            if not handed_over:
                handed_over = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        watcher = asyncio.create_task(watch())
        handler = asyncio.ensure_future(self._app(scope, hand_over, answer))
        try:
            await asyncio.wait((watcher, handler), return_when=asyncio.FIRST_COMPLETED)
            if not handler.done() and answer.complete:
                await handler  # it only tidies up
            elif not handler.done():
                raise _ClientGone
            await handler
        finally:
            for task in (handler, watcher):
                task.cancel()
            await asyncio.wait((handler, watcher))


class _ClientGone(Exception):
    """Nobody waits for the answer."""


class Headers:
    """The headers of a request by lower-case name; the last of several wins."""

    def __init__(self, scope: Scope) -> None:
        self.names = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }

    def get(self, name: str) -> str | None:
        return self.names.get(name)


class _Answer:
    """`send`, and what has become of it."""

    def __init__(self, send: Send) -> None:
        self.status = 0  # 0: nothing was sent
        self.complete = False
        self.extra_headers: list[tuple[bytes, bytes]] = []
        self._send = send
        self._streams_events = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                *self.extra_headers,
                (b"x-content-type-options", b"nosniff"),
                (b"cross-origin-resource-policy", b"same-origin"),
            ]
            self._streams_events = any(
                value.startswith(b"text/event-stream") for _, value in message["headers"]
            )
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Answer with an error, where nothing was answered yet; within a stream, as an event."""
        if self.complete:
            return
        body = strict_json.dump(error.body)
        if self.status == 0:
            headers = {"content-type": "application/json", "content-length": str(len(body))}
            await self.reply(error.status, headers | error.headers, body)
        elif self._streams_events:
            await self({"type": "http.response.body", "body": b"data: " + body + b"\n\n"})
        # else the connection is closed: half an answer must not look like a whole one

    async def reply(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        encoded = [(k.encode(), v.encode("latin-1", "replace")) for k, v in headers.items()]
        await self({"type": "http.response.start", "status": status, "headers": encoded})
        await self({"type": "http.response.body", "body": body})


def _is_open(scope: Scope) -> bool:
    """Whether a path is the same for everyone: health, and the page, which has no secrets."""
    path: str = scope["path"]
    return path in OPEN_PATHS or (path.count("/") == 1 and path.endswith(PAGE_SUFFIXES))


async def _read_body(headers: Headers, receive: Receive) -> bytes:
    """The body, of a length and kind that is allowed.

    One that is too long is read to its end all the same, and dropped: a client that still sends
    would not hear the answer. The transport's clock ends what takes too long.
    """
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        more = message.get("more_body", False)
        size += len(message["body"])
        if size > MAX_BODY_BYTES:
            parts.clear()
        else:
            parts.append(message["body"])
    if size > MAX_BODY_BYTES:
        raise ApiError(
            413, f"the body exceeds {MAX_BODY_BYTES >> 20} MB: {size:,} bytes", code="too_large"
        )
    if size:
        kind = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, f"the body must be application/json, not {_printable(kind)!r}")
        if headers.get("content-encoding") not in (None, "identity"):
            raise ApiError(415, "the body must not be compressed")
    return b"".join(parts)


def _preflight(headers: Headers) -> dict[str, str]:
    """What a page of an allowed origin may send."""
    return {
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": headers.get("access-control-request-headers")
        or "authorization, content-type",
        "access-control-max-age": "600",
    }


def _log_request(scope: Scope, answer: _Answer, elapsed_s: float) -> None:
    note: Any = scope.get("state", {}).get("log", "")
    path = _path(scope)
    log.info(
        "%s %s %d %.0f ms%s",
        scope["method"],
        path,
        answer.status,
        1e3 * elapsed_s,
        note and f" {note}",
    )


def _path(scope: Scope) -> str:
    """As it was sent, escapes and all, so that it cannot break a line of the log."""
    raw: bytes = scope["raw_path"]
    return raw.decode("ascii", "backslashreplace")[:200]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:100]
