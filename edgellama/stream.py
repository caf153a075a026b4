"""Values that one thread makes and others wait for, plainly or in an event loop."""

import contextlib
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from .errors import InvalidRequest

if TYPE_CHECKING:
    import asyncio

    _Waiting = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]

T = TypeVar("T")

# Windows does not interrupt a wait for Ctrl-C, but looks up between two of them.
_PATIENCE_S = 0.1 if sys.platform == "win32" else None


class Bell:
    """Wakes those who wait in event loops, all of a loop at once: it costs a system call."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def add(self, waiting: "_Waiting") -> None:
        self._waiting.append(waiting)

    def ring(self) -> None:
        waiting, self._waiting = self._waiting, []
        for loop in {loop for loop, _ in waiting}:
            _wake(loop, [future for its_loop, future in waiting if its_loop is loop])


class Stream(Generic[T]):
    """A queue with an end: written by one thread, read by any one at a time."""

    def __init__(self, bell: Bell | None = None) -> None:
        """bell: rung by the writer after it has put; without one, `put` wakes the reader."""
        self.cancelled = False  # the writer looks at it between two values
        self.writer: int | None = None  # thread that writes, and so must not wait for itself
        self._values: deque[T] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._bell = bell
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._is_awaited = False  # in a thread
        self._waiting: _Waiting | None = None  # in an event loop

    # The writer's side.

    def put(self, value: T) -> None:
        with self._lock:
            self._values.append(value)
            if self._is_awaited:
                self._changed.notify_all()
            if self._waiting is not None:
                waiting, self._waiting = self._waiting, None
                if self._bell is not None:
                    self._bell.add(waiting)
                else:
                    _wake(waiting[0], [waiting[1]])

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come; `error` is raised where the reader has read all there was."""
        with self._lock:
            if not self._ended:
                self._ended, self._error = True, error
                self._changed.notify_all()
                if self._waiting is not None:
                    loop, future = self._waiting
                    _wake(loop, [future])

    # The reader's side.

    def cancel(self) -> None:
        """Want no more; what is there can still be read. Takes no lock: finalizers call it."""
        self.cancelled = True

    def get(self) -> T | None:
        """The next value, waited for; None at the end. Raises the error that ended it."""
        with self._lock:
            while not self._values and not self._ended:
                if self.writer == threading.get_ident():
                    raise InvalidRequest(
                        "an answer was waited for by the code that makes it: a sampler or callback"
                        " must not ask the model it serves"
                    )
                self._is_awaited = True
                try:
                    self._changed.wait(_PATIENCE_S)
                finally:
                    self._is_awaited = False
            return self._next()

    async def aget(self) -> T | None:
        """`get` in an event loop."""
        if not self._values:
            await self._wait()
        with self._lock:
            return self._next()

    async def aget_all(self) -> list[T]:
        """All values that are there, one at least; [] at the end. Raises as `get`."""
        await self._wait()
        with self._lock:
            if not self._values and self._error is not None:
                raise self._error
            values = list(self._values)
            self._values.clear()
            return values

    async def _wait(self) -> None:
        import asyncio  # where a loop runs, it is there; to import it takes 50 ms

        while True:
            with self._lock:
                if self._values or self._ended:
                    return
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()
                self._waiting = loop, future
            await future

    def _next(self) -> T | None:
        if self._values:
            return self._values.popleft()
        if self._error is not None:
            raise self._error
        return None


def _wake(loop: "asyncio.AbstractEventLoop", futures: "list[asyncio.Future[None]]") -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_set, futures)


def _set(futures: "list[asyncio.Future[None]]") -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
