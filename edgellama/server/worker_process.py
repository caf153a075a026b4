"""The process that computes: the application and its models, behind a pair of sockets.

It has no address and reads no HTTP. Whoever started it is at the other end of its connection, and
it ends when that one does.
"""

import asyncio
import base64
import json
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgellama.errors import EdgellamaError
from edgellama.llama import Llama

from . import frames, strict_json
from .app import create_inner_app
from .failures import tell
from .frames import Channel, Frame
from .open_models import OpenModels, waiting_threads
from .settings import Settings

LAST_SECONDS = 20.0  # after which it ends, whatever still runs

log = logging.getLogger("edgellama.server")


def main(told: dict[str, Any]) -> None:
    """Serve until the other end is gone, and with it stdin.

    told: `socket`, an inherited descriptor or, on Windows, a share of it in base64; `settings`, of
    Settings.for_worker; `open`, whether the first model must, may or shall not be opened before
    requests are taken; `log_level`.
    """
    # The server is told to end, and this process by it. SIGTTOU stops what writes to a terminal
    # from the background, where this process is for it, if the user has said `stty tostop`.
    for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGTTOU"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The engine asks for the interpreter after every step: not behind 5 ms of answers on their way.
    sys.setswitchinterval(5e-4)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(told["log_level"])
    serving = threading.Event()
    threading.Thread(target=_end_with_stdin, args=(serving,), daemon=True).start()
    with _connection(told["socket"]) as connection:
        notes = Notes(connection)
        with closing(OpenModels(_settings(told["settings"]), notes)) as models:
            try:
                first = _open_first(models, told["open"])
            except Exception as error:
                frames.transmit(connection, frames.FAILED, strict_json.dump(_plain(error)))
                return
            serving.set()
            asyncio.run(_serve(models, first, connection, notes))


def _end_with_stdin(serving: threading.Event) -> None:
    """End when whoever holds the other end of stdin has: in order if possible, but for sure."""
    os.read(0, 1)  # sys.stdin would hold a lock that the interpreter's end wants
    if serving.is_set():
        time.sleep(LAST_SECONDS)
    os._exit(1)


def _connection(told: int | str) -> socket.socket:
    if sys.platform == "win32":
        assert isinstance(told, str)
        return socket.fromshare(base64.b64decode(told))
    assert isinstance(told, int)
    os.set_inheritable(told, False)  # or its end would wait for what is started from here, too
    return socket.socket(fileno=told)


def _settings(plain: dict[str, Any]) -> Settings:
    models = {name: path and Path(path) for name, path in plain.pop("models").items()}
    return Settings(models=models, **plain)


def _open_first(models: OpenModels, when: str) -> Llama | None:
    """The first model; None where it is left to the requests that ask for it."""
    if when == "not":
        return None
    try:
        return models.open(models.first)
    except Exception as error:
        if when == "must":
            raise
        log.error("%s cannot be opened for now: %s", models.first, error)
        return None


def _plain(error: Exception) -> dict[str, str]:
    """Kind and words of an error, for the one line that the other end tells of it."""
    if isinstance(error, EdgellamaError):
        return {"kind": type(error).__name__, "message": str(error)}
    if log.isEnabledFor(logging.DEBUG):
        log.error("no model", exc_info=error)
    if isinstance(error, OSError) and error.strerror is not None:
        place = f"{error.filename}: " if error.filename else ""
        return {"kind": "ResourceError", "message": place + error.strerror}
    if isinstance(error, MemoryError):
        return {"kind": "ResourceError", "message": "there is not enough memory"}
    words = f"{type(error).__name__}: {error} (not expected; --debug shows where)"
    return {"kind": "EdgellamaError", "message": words}


class Notes:
    """Tells the other end what opening a model waits for; from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._channel: tuple[asyncio.AbstractEventLoop, Channel] | None = None

    def __call__(self, text: str) -> None:
        if self._channel is None:
            frames.transmit(self._connection, frames.NOTE, text.encode())
            return
        loop, channel = self._channel
        with suppress(RuntimeError):  # the loop has ended: nobody listens
            loop.call_soon_threadsafe(channel.send, frames.NOTE, 0, text.encode())

    def go_through(self, channel: Channel) -> None:
        """From now on the connection is the channel's, in the loop that runs."""
        self._channel = asyncio.get_running_loop(), channel


async def _serve(
    models: OpenModels, first: Llama | None, connection: socket.socket, notes: Notes
) -> None:
    """Answer requests until the connection ends, then end those that run."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(waiting_threads())
    app = create_inner_app(models.loaded(first), [Middleware(TellFailures)])
    app.state.prefix_store = models.prefix_store
    async with app.router.lifespan_context(app):
        exchanges = Exchanges(app)
        frames.transmit(connection, frames.READY)
        notes.go_through(exchanges.channel)
        await loop.create_connection(lambda: exchanges.channel, sock=connection)
        await exchanges.gone.wait()
        await exchanges.end()


class TellFailures:
    """ASGI middleware: what a handler raises is a message of its own, for the other end to tell."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            path = scope["raw_path"].decode("ascii", "backslashreplace")[:200]
            await send({"type": "failed", "error": tell(error, path)})


class Exchanges:
    """The requests that are being answered."""

    def __init__(self, app: Starlette) -> None:
        self.gone = asyncio.Event()  # set when the other end is
        self.channel = Channel(self._take, self.gone.set)
        self._app = app
        self._running: dict[int, tuple[asyncio.Task[None], _Answer]] = {}

    def _take(self, frame: Frame) -> None:
        if frame.kind == frames.REQUEST:
            answer = _Answer(self.channel, frame.number)
            task = asyncio.create_task(self._answer(frame.payload, answer))
            self._running[frame.number] = task, answer
            task.add_done_callback(lambda _: self._running.pop(frame.number))
        elif frame.number in self._running:  # else it has just ended
            task, answer = self._running[frame.number]
            if frame.kind == frames.CANCEL:
                task.cancel()
            else:
                answer.taken(*struct.unpack("<I", frame.payload))

    async def end(self) -> None:
        tasks = [task for task, _ in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _answer(self, request: bytes, answer: "_Answer") -> None:
        head, _, body = request.partition(b"\n")
        asked = json.loads(head)
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": asked["method"],
            "scheme": "http",
            "path": asked["path"],
            "raw_path": asked["raw_path"].encode("latin-1"),
            "root_path": "",
            "query_string": b"",
            "headers": [],
            "state": answer.state,
        }
        received = False

        async def receive() -> Message:
            nonlocal received
            if received:  # whoever is gone cancels the task
                await asyncio.get_running_loop().create_future()
            received = True
            return {"type": "http.request", "body": body, "more_body": False}

        with suppress(asyncio.CancelledError):
            await self._app(scope, receive, answer)


class _Answer:
    """`send` of one exchange; waits while too much is on its way."""

    def __init__(self, channel: Channel, number: int) -> None:
        self.state: dict[str, Any] = {}
        self._channel = channel
        self._number = number
        self._on_its_way = 0  # bytes that no reader has taken yet
        self._room: asyncio.Future[None] | None = None

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            headers = [[k.decode("latin-1"), v.decode("latin-1")] for k, v in message["headers"]]
            head = {"status": message["status"], "headers": headers}
            self._send(frames.START, strict_json.dump(head))
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == "failed":
            self._send_note()
            self._send(frames.FAILED, strict_json.dump(message["error"].as_plain()))

    def taken(self, n_bytes: int) -> None:
        self._on_its_way -= n_bytes
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _send_body(self, body: bytes, more: bool) -> None:
        last = max(len(body) - 1, 0) // frames.PIECE * frames.PIECE
        for at in range(0, last, frames.PIECE):
            await self._send_piece(frames.BODY, body[at : at + frames.PIECE])
        if not more:
            self._send_note()
        await self._send_piece(frames.BODY if more else frames.END, body[last:])

    async def _send_piece(self, kind: int, piece: bytes) -> None:
        while self._on_its_way > frames.WINDOW:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self._on_its_way += len(piece)
        self._send(kind, piece)

    def _send_note(self) -> None:
        if "log" in self.state:
            self._send(frames.NOTE, self.state["log"].encode())

    def _send(self, kind: int, payload: bytes) -> None:
        self._channel.send(kind, self._number, payload)
