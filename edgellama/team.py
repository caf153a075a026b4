"""The threads that run a step together: persistent, parked between steps."""

import os
import threading
from collections.abc import Callable

from .errors import InvalidRequest


def default_threads() -> int:
    """Processors that this process may use, one a physical core where that is known."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    import psutil

    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical))


class Team:
    """Calls `work(ith, nth)` on n threads at once and waits for all; the caller is thread 0."""

    def __init__(self, n: int | None = None) -> None:
        self.n = default_threads() if n is None else n
        if not 1 <= self.n <= 1024:
            raise InvalidRequest(f"n_threads is {n}, expected 1..1024")
        self._work: Callable[[int, int], None] | None = None
        self._start = [threading.Semaphore(0) for _ in range(self.n - 1)]
        self._done = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._serve, args=(i,), name=f"edgellama-{i}", daemon=True)
            for i in range(1, self.n)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Callable[[int, int], None]) -> None:
        """One step. The work must release the GIL and must not raise."""
        self._work = work
        for start in self._start:
            start.release()
        work(0, self.n)
        for _ in self._start:
            self._done.acquire()

    def close(self) -> None:
        """End the threads; to be called once no step is running."""
        self._work = None
        for start in self._start:
            start.release()
        for thread in self._threads:
            thread.join()
        self._threads = []
        self._start = []

    def _serve(self, ith: int) -> None:
        while True:
            self._start[ith - 1].acquire()
            if self._work is None:
                return
            self._work(ith, self.n)
            self._done.release()
