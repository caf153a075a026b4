"""The worker: the process that computes, as the server sees it, and the next one when it dies.

A model's file that is cut off while it is read, or a machine without memory, ends a process with no
chance to say a word. So what computes is a process of its own. Its death ends the requests it was
answering, each with an error, and another takes its place: at once, or after 1, 2, 4, ... 30 s
where one after the other dies.
"""

import asyncio
import base64
import itertools
import json
import logging
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from edgellama import errors
from edgellama.errors import EdgellamaError, ResourceError

from . import frames, strict_json
from .failures import ApiError, retry_after
from .frames import Channel, Frame
from .settings import Settings

STEADY_SECONDS = 30.0  # a worker that lived so long did not die of its start
MAX_DELAY_SECONDS = 30.0  # between a death and the next start
END_SECONDS = 10.0  # in which a worker ends that is told to

log = logging.getLogger("edgellama.server")

# What the new interpreter runs: it finds modules where this one does.
_BOOT = """
import json, sys
told = json.loads(sys.stdin.readline())
told["socket"] = json.loads(sys.stdin.readline())
sys.path[:] = told.pop("path")
from edgellama.server.worker_process import main
main(told)
"""


class Worker:
    """A process that answers requests, and those that come after it.

    Public to read: restarts, how often another one was started; pid, of the one there is.
    """

    def __init__(self, settings: Settings) -> None:
        """Start one and wait until it is ready. Raises what opening the first model raises."""
        self.restarts = 0
        self.attended = asyncio.Event()  # set as soon as requests can be asked
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None  # None while there is nobody to ask
        self._answers: dict[int, Answer] = {}
        self._numbers = itertools.count()
        self._next_start = 0.0  # in time.monotonic, while there is no worker
        self._changing = threading.Lock()  # held to make a process, and to say that there be none
        self._ending = False
        self._woken = threading.Event()  # when it ends
        self._connection = self._start("must")

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def ready(self) -> bool:
        """Whether there is one to ask."""
        return self._channel is not None

    @contextmanager
    def ask(self, head: dict[str, str], body: bytes) -> Iterator["Answer"]:
        """The answer to a request, which nobody wants any more when the context ends.

        Raises ApiError 503 while there is no worker.
        """
        channel = self._channel
        if channel is None:
            raise ApiError(
                503,
                "the process that computes died and is being started again; ask again later",
                code="worker_starting",
                headers=retry_after(self._next_start - monotonic() + 1),
            )
        number = 1 + next(self._numbers) % frames.LAST_NUMBER
        answer = self._answers[number] = Answer(channel, number)
        channel.send(frames.REQUEST, number, strict_json.dump(head) + b"\n" + body)
        try:
            yield answer
        finally:
            del self._answers[number]
            if not answer.ended:
                channel.send(frames.CANCEL, number)

    async def keep(self) -> None:
        """Carry requests to the worker, and see to it that there is one, until `end`."""
        n_deaths = 0  # in a row
        while True:
            began = monotonic()
            await self._attend()
            died = await asyncio.to_thread(self._bury)
            self._fail_answers(died)
            if self._ending:
                return
            log.error("%s", died)
            if monotonic() - began > STEADY_SECONDS:
                n_deaths = 0
            if not await asyncio.to_thread(self._replace, n_deaths):
                return
            n_deaths += 1

    def end(self) -> None:
        """Have the worker end, and `keep` with it."""
        with self._changing:
            self._ending = True
        self._woken.set()
        process = self._process  # which a thread may be burying
        if self._channel is not None:
            self._channel.abort()
        elif process is not None:
            process.kill()

    def close(self) -> None:
        """Leave no process behind."""
        self._connection.close()
        self._bury()

    async def _attend(self) -> None:
        """Have requests answered until the worker is gone."""
        lost = asyncio.Event()
        channel = Channel(self._take, lost.set)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: channel, sock=self._connection)
        self._channel = channel
        self.attended.set()
        await lost.wait()
        self._channel = None
        self._next_start = monotonic()

    def _take(self, frame: Frame) -> None:
        if frame.number in self._answers:  # else its client has just left
            self._answers[frame.number].put(frame)
        elif frame.number == 0 and frame.kind == frames.NOTE:
            self._tell_progress(frame)

    def _fail_answers(self, died: ApiError) -> None:
        for answer in self._answers.values():
            answer.put(Frame(frames.FAILED, 0, strict_json.dump(died.as_plain())))

    # In a thread.

    def _replace(self, n_deaths: int) -> bool:
        """Start another worker, and another, until one is ready; False if there shall be none."""
        when = "may"
        while True:
            delay = delay_s(n_deaths)
            self._next_start = monotonic() + delay
            if self._woken.wait(delay):
                return False
            try:
                self._connection = self._start(when)
                self.restarts += 1
                return True
            except (EdgellamaError, OSError) as error:
                if self._ending:
                    return False
                log.error("%s", error)
                when = "not"  # it may have died of the model: requests will tell
                n_deaths += 1

    def _start(self, open_first: str) -> socket.socket:
        """Make a process and wait until it is ready: the connection to it.

        open_first: whether the first model "must", "may" or shall "not" be opened before.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._changing:
                if self._ending:
                    raise ResourceError("the server ends")
                told = {
                    "path": [str(folder) for folder in sys.path],
                    "settings": self._settings.for_worker(),
                    "open": open_first,
                    "log_level": log.getEffectiveLevel(),
                }
                self._process = _spawn(json.dumps(told), theirs)
            self._await_ready(ours)
        except BaseException:
            ours.close()
            if self._process is not None:
                self._process.kill()
                self._bury()
            raise
        return ours

    def _await_ready(self, connection: socket.socket) -> None:
        while True:
            frame = frames.receive(connection)
            if frame is None:
                raise ResourceError(f"{self._bury()}, when it was being started")
            if frame.kind == frames.READY:
                return
            if frame.kind == frames.FAILED:
                raise _error(json.loads(frame.payload))
            self._tell_progress(frame)

    def _bury(self) -> ApiError:
        """Wait for the end of the process, and make sure of it: what to say of it."""
        process, self._process = self._process, None
        if process is None:
            return ApiError(503, "there is no process that computes", code="worker_died")
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return _death(process.returncode)

    def _tell_progress(self, frame: Frame) -> None:
        if self._settings.progress is not None:
            self._settings.progress(frame.payload.decode())


class Answer:
    """What the worker says to one request, frame by frame."""

    def __init__(self, channel: Channel, number: int) -> None:
        self.ended = False
        self._channel = channel
        self._number = number
        self._frames: asyncio.Queue[Frame] = asyncio.Queue()
        self._taken = 0

    def put(self, frame: Frame) -> None:
        self._frames.put_nowait(frame)

    async def next(self) -> Frame:
        """The next frame, NOTE, START, BODY or END. Raises the ApiError that it came to."""
        frame = await self._frames.get()
        self.ended = frame.kind in (frames.END, frames.FAILED)
        if frame.kind == frames.FAILED:
            raise ApiError.from_plain(json.loads(frame.payload))
        return frame

    def taken(self, n_bytes: int) -> None:
        """So much has gone to the client: as much more may come."""
        self._taken += n_bytes
        if self._taken > frames.WINDOW // 4:
            self._channel.send(frames.TAKEN, self._number, struct.pack("<I", self._taken))
            self._taken = 0


def delay_s(n_deaths: int) -> float:
    """Seconds between a death and the next start, after so many deaths before it in a row."""
    doublings = min(n_deaths - 1, 10)  # after hours of deaths a power of all would overflow
    return min(2.0**doublings, MAX_DELAY_SECONDS) if n_deaths else 0.0


def _spawn(told: str, connection: socket.socket) -> "subprocess.Popen[bytes]":
    """A process that is told so much and has the connection; Ctrl-C does not reach it."""
    options: dict[str, Any]
    if sys.platform == "win32":
        options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    else:
        options = {"pass_fds": [connection.fileno()], "process_group": 0}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOT],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        **options,
    )
    share: int | str = connection.fileno()
    if sys.platform == "win32":
        share = base64.b64encode(connection.share(process.pid)).decode()
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has died: that shows elsewhere
        process.stdin.write(f"{told}\n{json.dumps(share)}\n".encode())
        process.stdin.flush()  # and left open: its end tells the process that this one has ended
    return process


def _error(plain: dict[str, str]) -> EdgellamaError:
    """What opening the first model raised."""
    kinds = (errors.ModelFormatError, errors.InvalidRequest, errors.ResourceError)
    made: Callable[[str], EdgellamaError]
    made = {kind.__name__: kind for kind in kinds}.get(plain["kind"], EdgellamaError)
    return made(plain["message"])


def _death(status: int) -> ApiError:
    """What is said of a process that ended with this exit status."""
    try:
        how = signal.Signals(-status).name
    except ValueError:
        how = f"exit status {status}"
    reason, code = _REASONS.get(how, ("", "worker_died"))
    words = f"the process that computes died ({how}){reason}"
    return ApiError(503, words, code=code, headers=retry_after(1))


_REASONS = {
    "SIGBUS": (
        ": a model's file was cut off while it was in use; replace such a file by another, never"
        " write to it",
        "model_changed",
    ),
    "SIGKILL": (", as happens where memory gives out", "worker_died"),
}
