"""What the server and its worker say to each other, over one pair of sockets.

    bytes of the payload u32 | kind u8 | number of the exchange u32 | payload        little-endian

An exchange is a request and its answer; number 0 belongs to none. The end of the connection is the
end of whoever was at the other end, and every exchange ends with it.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

# To the worker.
REQUEST = 1  # JSON of the request's head, a line feed, its body
CANCEL = 2  # nobody waits for the answer any more
TAKEN = 3  # u32: bytes of the answer that its reader has taken
# From the worker.
READY = 16  # it takes requests
NOTE = 17  # words: of number 0 what the start is waiting for, else what the log says of a request
START = 18  # JSON: status and headers of the answer
BODY = 19  # bytes of it; more follow
END = 20  # its last bytes
FAILED = 21  # JSON of the ApiError that the answer comes to; of number 0 why there is no worker

LAST_NUMBER = 2**32 - 1
WINDOW = 256 << 10  # bytes of an answer that may be on their way to a reader who takes none
PIECE = 64 << 10  # bytes of an answer in one frame, at most

_HEAD = struct.Struct("<IBI")
# Windows does not interrupt a wait for Ctrl-C, but looks up between two of them.
_PATIENCE_S = 0.1 if sys.platform == "win32" else None


class Frame(NamedTuple):
    kind: int
    number: int
    payload: bytes


class Channel(asyncio.Protocol):
    """One end of the connection, in an event loop."""

    def __init__(self, take: Callable[[Frame], None], lost: Callable[[], None]) -> None:
        """take: told every frame. lost: told once that the other end is gone."""
        self._take = take
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._incoming = bytearray()
        self._outgoing: list[bytes] = []

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Send a frame, together with all others of this turn of the loop."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing += (_HEAD.pack(len(payload), kind, number), payload)

    def abort(self) -> None:
        """End the connection now, whatever waits to be sent."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        incoming = self._incoming
        incoming += data
        begin, size = 0, len(incoming)
        while size - begin >= _HEAD.size:
            length, kind, number = _HEAD.unpack_from(incoming, begin)
            end = begin + _HEAD.size + length
            if end > size:
                break
            self._take(Frame(kind, number, bytes(incoming[begin + _HEAD.size : end])))
            begin = end
        del incoming[:begin]

    def connection_lost(self, error: Exception | None) -> None:
        self._lost()


def receive(connection: socket.socket) -> Frame | None:
    """The next frame, waited for without an event loop; None where there is no other end."""
    head = _receive(connection, _HEAD.size)
    if head is None:
        return None
    length, kind, number = _HEAD.unpack(head)
    payload = _receive(connection, length)
    return None if payload is None else Frame(kind, number, payload)


def _receive(connection: socket.socket, size: int) -> bytes | None:
    data = b""
    connection.settimeout(_PATIENCE_S)
    while len(data) < size:
        with suppress(TimeoutError):
            try:
                more = connection.recv(size - len(data))
            except ConnectionError:
                return None
            if not more:
                return None
            data += more
    return data


def transmit(connection: socket.socket, kind: int, payload: bytes = b"") -> None:
    """Send a frame of no exchange without an event loop; lost where there is no other end."""
    with suppress(ConnectionError):
        connection.sendall(_HEAD.pack(len(payload), kind, 0) + payload)
