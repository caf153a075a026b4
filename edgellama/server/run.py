"""A server from its settings to its end."""

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from edgellama.errors import ResourceError
from edgellama.llama import Llama

from .app import create_app
from .loaded_models import LoadedModels
from .settings import Settings
from .transport import KEEP_ALIVE_SECONDS, MAX_HEAD_BYTES, GuardedProtocol

GRACE_SECONDS = 10  # in which answers may end when the server is told to


def serve(settings: Settings, ready: Callable[[str], None]) -> bool:
    """Serve until SIGTERM or Ctrl-C; returns whether it was the latter.

    The port is taken and the first model opened before `ready` is told the server's address.
    Raises what opening the model raises, and ResourceError if the port cannot be had.
    """
    with _bind(settings.host, settings.port) as listener:
        first = next(iter(settings.models))

        def open_model(name: str) -> Llama:
            return Llama(settings.models[name], **settings.llama)

        opened = open_model(first)
        try:
            return asyncio.run(_serve(settings, listener, open_model, first, opened, ready))
        finally:
            opened.close()


async def _serve(
    settings: Settings,
    listener: socket.socket,
    open_model: Callable[[str], Llama],
    first: str,
    opened: Llama,
    ready: Callable[[str], None],
) -> bool:
    loaded = LoadedModels(
        tuple(settings.models),
        open_model,
        max_loaded=settings.max_loaded,
        idle_unload_s=settings.idle_unload_s,
    )
    loaded.put(first, opened)
    server = _Server(
        uvicorn.Config(
            create_app(settings, loaded),
            http=GuardedProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    server.on_start = lambda: ready(_address(settings.host, listener.getsockname()[1]))
    await server.serve(sockets=[listener])
    return server.interrupted


class _Server(uvicorn.Server):
    """uvicorn's, but SIGTERM is an orderly end, and one is told when it listens."""

    interrupted = False
    on_start: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_start()

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
