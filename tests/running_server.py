"""A server on a free port, in a thread of the test's own process, and ways to ask it.

Its models are in a process of their own, as those of `edgellama serve`, unless own_process=False.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai

from edgellama.server.run import BehindRelay, Server
from edgellama.server.settings import Settings
from edgellama.server.worker import Worker

PATIENCE_S = 60.0  # some twenty times what a start takes where nothing else runs
# What only its client ends, by leaving, however fast the machine and however late the client.
ENDLESS: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 10**6,
    "context_policy": "shift",
    "grammar": "root ::= [a-z ] root",
}


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Fails, saying `otherwise`, if it does not come true."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)


class Running:
    """A server that serves, with what tests ask of it most."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("models", {"tiny": None})
        # Deterministic: on AMX, too, an answer is the same in any company.
        llama = {"n_ctx": 1024, "n_parallel": 4, "deterministic": True} | settings.pop("llama", {})
        self._server = Server(Settings(port=0, llama=llama, **settings))
        self.address = self._server.address
        self.port = int(self.address.rsplit(":", 1)[1])
        ready = threading.Event()
        self._thread = threading.Thread(target=self._server.run, args=(ready.set,))
        self._thread.start()
        assert ready.wait(PATIENCE_S)

    @property
    def worker(self) -> Worker:
        """The process of the models."""
        assert isinstance(self._server.backend, BehindRelay)
        return self._server.backend.worker

    def stop(self) -> None:
        self._server.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        options = {"max_retries": 0, "timeout": PATIENCE_S} | options
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, **options)

    def send(self, data: bytes) -> socket.socket:
        """A raw connection on which `data` was sent."""
        connection = connect(self.port, data)
        connection.settimeout(PATIENCE_S)
        return connection

    def ask(self, data: bytes) -> tuple[int, dict[str, Any]]:
        """(status, JSON) of the answer to raw bytes; the connection must be closed behind it."""
        with self.send(data) as connection:
            answer = b""
            while more := connection.recv(65536):
                answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)

    def post(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, Any]]:
        """(status, JSON) of a POST; `body` is sent as JSON unless it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask(request("POST", path, data, **headers))

    def metric(self, name: str) -> float:
        with self.send(request("GET", "/metrics")) as connection:
            text = connection.makefile("rb").read().decode()
        lines = [line for line in text.splitlines() if line.startswith(f"edgellama_{name}")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def n_requests(self) -> float:
        """Requests that run or wait."""
        return self.metric("requests_active") + self.metric("requests_queued")

    def wait_until_idle(self) -> None:
        wait_until(lambda: self.n_requests() == 0, "a request still runs")


def request(method: str, path: str, body: bytes = b"", **headers: str | None) -> bytes:
    """A request in bytes; keywords replace headers, None leaves one out."""
    shown: dict[str, str | None] = {"host": "localhost", "connection": "close"}
    if body:
        shown |= {"content-type": "application/json", "content-length": str(len(body))}
    shown |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in shown.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


@contextmanager
def command(
    *arguments: str, new_session: bool = False, **environment: str
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """(process, port) of `edgellama serve` as a user starts it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgellama", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=new_session,
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", process.stdout.readline())
        assert found
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def connect(port: int, data: bytes) -> socket.socket:
    """A raw connection to a port of this machine on which `data` was sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    connection.sendall(data)
    return connection
