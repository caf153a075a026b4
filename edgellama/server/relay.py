"""The application of a server whose models have a process of their own: it passes everything on."""

import json

from starlette.types import Receive, Scope, Send

from . import frames
from .failures import ApiError
from .prometheus import MEDIA_TYPE, Counts, metric, process_lines
from .worker import Worker


class Relay:
    """ASGI application: requests to the worker, its answers back."""

    def __init__(self, worker: Worker, counts: Counts) -> None:
        self._worker = worker
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {
            "method": scope["method"],
            "path": scope["path"],
            "raw_path": scope["raw_path"].decode("latin-1"),
        }
        body: bytes = (await receive())["body"]
        if (head["method"], head["path"]) == ("GET", "/metrics"):
            await _reply(send, (await self._metrics(head)).encode())
            return
        with self._worker.ask(head, body) as answer:
            while not answer.ended:
                kind, _, payload = await answer.next()
                if kind == frames.NOTE:
                    scope.setdefault("state", {})["log"] = payload.decode()
                elif kind == frames.START:
                    await send({"type": "http.response.start", **_head(payload)})
                else:
                    more = not answer.ended
                    await send({"type": "http.response.body", "body": payload, "more_body": more})
                    answer.taken(len(payload))

    async def _metrics(self, head: dict[str, str]) -> str:
        """The worker's, where there is one, and those of this process."""
        worker = b""
        try:
            with self._worker.ask(head, b"") as answer:
                while not answer.ended:
                    kind, _, payload = await answer.next()
                    if kind in (frames.BODY, frames.END):
                        worker += payload
                        answer.taken(len(payload))
        except ApiError:
            worker = b""
        up, restarts = int(self._worker.ready), self._worker.restarts
        lines = [
            *self._counts.lines(),
            *metric("worker_up", "gauge", "Whether there is a worker", [("", up)]),
            *metric("worker_restarts_total", "counter", "Workers that died", [("", restarts)]),
            *process_lines("front_"),
        ]
        return worker.decode() + "\n".join(lines) + "\n"


def _head(start: bytes) -> dict[str, object]:
    """Status and headers of an answer, as ASGI has them."""
    told = json.loads(start)
    headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in told["headers"]]
    return {"status": told["status"], "headers": headers}


async def _reply(send: Send, body: bytes) -> None:
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
