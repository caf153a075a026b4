"""The connection: uvicorn's h11 protocol with the limits that uvicorn leaves to a proxy.

    connections         at most MAX_CONNECTIONS, another gets 503
    head of a request   at most MAX_HEAD_BYTES, lines end in CR LF           else 431, 400
    a whole request     within REQUEST_SECONDS from its first byte           else 408
    a reader            takes something within STALL_SECONDS                 else the end

h11 itself refuses differing lengths, unknown transfer encodings and what is no HTTP.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from . import strict_json
from .failures import ApiError, retry_after

MAX_CONNECTIONS = 256
MAX_HEAD_BYTES = 32 << 10
REQUEST_SECONDS = 20.0
STALL_SECONDS = 60.0
KEEP_ALIVE_SECONDS = 15
LINGER_SECONDS = 2.0  # in which a client that still sends can read why it was refused
_HEAD_END = b"\r\n\r\n"


class GuardedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None  # of the request that is being read
        self._stall: asyncio.TimerHandle | None = None  # of the reader that takes nothing
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(
                ApiError(
                    503,
                    f"{MAX_CONNECTIONS} connections are open already; ask again later",
                    code="overloaded",
                    headers=retry_after(5),
                )
            )
            return
        self._keep_time(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep_time(False)
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        super().data_received(data)
        self._keep_time(self._reading())

    def handle_events(self) -> None:
        if self.conn.their_state is h11.IDLE:
            waiting, _ = self.conn.trailing_data
            head, _, _ = waiting.partition(_HEAD_END)
            if len(head) > MAX_HEAD_BYTES:
                self._refuse(_head_too_large())
                return
            if b"\n" in head.replace(b"\r\n", b""):
                self._refuse(ApiError(400, "a line of the request's head ends in LF alone"))
                return
        super().handle_events()

    def _reading(self) -> bool:
        """Whether a request has begun and not ended."""
        if self.conn.their_state is h11.IDLE:
            return bool(self.conn.trailing_data[0])
        return self.conn.their_state is h11.SEND_BODY

    def _keep_time(self, reading: bool) -> None:
        """See to it that the clock runs while a request is being read, and then only."""
        if reading and self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self._too_slow)
        elif not reading and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self._refuse(
            ApiError(
                408, f"the request did not arrive within {REQUEST_SECONDS:.0f} s", code="timeout"
            )
        )

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def send_400_response(self, msg: str) -> None:
        """What h11 did not understand, in words and in OpenAI's shape."""
        waiting, _ = self.conn.trailing_data
        too_large = self.conn.their_state is h11.ERROR and len(waiting) > MAX_HEAD_BYTES
        self._refuse(_head_too_large() if too_large else ApiError(400, "this is no valid HTTP"))

    def _refuse(self, error: ApiError) -> None:
        """Say it, if an answer has not begun already, and close."""
        self._keep_time(False)
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = strict_json.dump(error.body)
            headers = {
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
                **error.headers,
            }
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True  # the handler must not answer as well
                self.cycle.message_event.set()
            for event in (
                h11.Response(status_code=error.status, headers=list(headers.items())),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            # Closed with bytes unread, a socket is reset, and the answer may be lost.
            self._refused = True
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.abort()


def _head_too_large() -> ApiError:
    return ApiError(431, f"the head of the request exceeds {MAX_HEAD_BYTES >> 10} KB")
