"""Values that one thread makes and others wait for, plainly or in an event loop."""

import contextlib
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from .errors import InvalidRequest

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

# Windows does not interrupt a wait for Ctrl-C, but looks up between two of them.
_PATIENCE_S = 0.1 if sys.platform == "win32" else None


class Stream(Generic[T]):
    """A queue with an end: written by one thread, read by any one at a time."""

    def __init__(self) -> None:
        self.cancelled = False  # the writer looks at it between two values
        self.writer: int | None = None  # thread that writes, and so must not wait for itself
        self._values: deque[T] = deque()
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    # The writer's side.

    def put(self, value: T) -> None:
        with self._changed:
            self._values.append(value)
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come; `error` is raised where the reader has read all there was."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
                self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._waiting is not None:
            loop, future = self._waiting
            self._waiting = None
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_set, future)

    # The reader's side.

    def cancel(self) -> None:
        """Want no more; what is there can still be read. Takes no lock: finalizers call it."""
        self.cancelled = True

    def get(self) -> T | None:
        """The next value, waited for; None at the end. Raises the error that ended it."""
        with self._changed:
            while not self._values and not self._ended:
                if self.writer == threading.get_ident():
                    raise InvalidRequest(
                        "an answer was waited for by the code that makes it: a sampler or callback"
                        " must not ask the model it serves"
                    )
                self._changed.wait(_PATIENCE_S)
            return self._next()

    async def aget(self) -> T | None:
        """`get` in an event loop."""
        await self._wait()
        with self._changed:
            return self._next()

    async def aget_all(self) -> list[T]:
        """All values that are there, one at least; [] at the end. Raises as `get`."""
        await self._wait()
        with self._changed:
            if not self._values and self._error is not None:
                raise self._error
            values = list(self._values)
            self._values.clear()
            return values

    async def _wait(self) -> None:
        import asyncio  # where a loop runs, it is there; to import it takes 50 ms

        while True:
            with self._changed:
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


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
