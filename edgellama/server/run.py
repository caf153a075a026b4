"""A server from its settings to its end."""

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from edgellama.errors import ResourceError

from .door import Door
from .prometheus import Counts
from .relay import Relay
from .settings import Settings
from .transport import KEEP_ALIVE_SECONDS, MAX_HEAD_BYTES, GuardedProtocol
from .worker import Worker

GRACE_SECONDS = 10  # in which answers may end when the server is told to


class Server:
    """A server that has its port and its first model, and serves while `run` runs.

    Raises what opening the model raises, and ResourceError if the port cannot be had.
    """

    def __init__(self, settings: Settings) -> None:
        self._listener = _bind(settings.host, settings.port)
        self.address = _address(settings.host, self._listener.getsockname()[1])
        self._counts = Counts()
        self._uvicorn: _Uvicorn | None = None
        try:
            self.backend = _backend(settings, self._counts)
        except BaseException:
            self._listener.close()
            raise

    def run(self, ready: Callable[[], None] = lambda: None) -> bool:
        """Serve until `stop`, SIGTERM or Ctrl-C; returns whether it was the latter.

        ready: called as soon as connections are taken. Answers get GRACE_SECONDS to end.
        """
        try:
            return asyncio.run(self._run(ready))
        finally:
            self.backend.close()
            self._listener.close()

    def stop(self) -> None:
        """End `run`, which another thread is in."""
        if self._uvicorn is not None:
            self._uvicorn.should_exit = True

    async def _run(self, ready: Callable[[], None]) -> bool:
        async with self.backend.serving() as app:
            config = uvicorn.Config(
                _told_to_end(app),
                http=GuardedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
            self._uvicorn = _Uvicorn(config, ready)
            self._counts.connections = self._uvicorn.server_state.connections
            await self._uvicorn.serve(sockets=[self._listener])
            return self._uvicorn.interrupted


class Backend(Protocol):
    """What answers the requests of a server."""

    def serving(self) -> AbstractAsyncContextManager[ASGIApp]:
        """The whole application, which serves while the context lasts."""

    def close(self) -> None:
        """Leave nothing behind, whether it has served or not."""


def _backend(settings: Settings, counts: Counts) -> Backend:
    if settings.own_process:
        return BehindRelay(settings, counts)
    from .in_process import InProcess  # imports what computes

    return InProcess(settings, counts)


class BehindRelay:
    """A worker answers."""

    def __init__(self, settings: Settings, counts: Counts) -> None:
        self.worker = Worker(settings)
        self._app = Door(Relay(self.worker, counts), settings, counts.answered)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ASGIApp]:
        keeping = asyncio.create_task(self.worker.keep())
        try:
            await self.worker.attended.wait()
            yield self._app
        finally:
            self.worker.end()
            await keeping

    def close(self) -> None:
        self.worker.close()


def _told_to_end(app: ASGIApp) -> ASGIApp:
    """For uvicorn, which logs a traceback of every request that it ends itself."""

    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return quiet


class _Uvicorn(uvicorn.Server):
    """uvicorn's server, but SIGTERM is an orderly end, and one is told when it listens."""

    interrupted = False

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Without uvicorn's last act, which is to raise the signal again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            numbers.append(signal.SIGBREAK)
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.interrupted = self.interrupted or number == signal.SIGINT
        self.handle_exit(number, frame)


def _bind(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ResourceError(f"{host} is no address of this machine: {error.strerror}") from None
    try:
        if sys.platform != "win32":  # there it would let two servers have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"cannot listen at {_address(host, port)}: {error.strerror}; is another server running?"
            " choose another port with --port N, or 0 for any that is free"
        ) from None
    return listener


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
