"""The threads that run a step together. Between steps they wait for a moment, then they park.

A step is a call of one compiled entry on every thread. Threads meet in shared memory, not through
Python: a worker that still waits sees the next step within a microsecond, and nobody needs the
interpreter lock. A worker that has waited in vain parks at a gate, where it costs nothing; waking
it takes some 60 us.
"""

import os
import threading

import numpy as np

from .errors import InvalidRequest, ResourceError
from .quant.entry import Entry
from .quant.system import free_gate, new_gate
from .threads import default_threads

# Shared memory, in lines of two cache lines, since some CPUs fetch them in pairs.
LINE = 128
TURN = 0  # number of the present step; written last
WORK = LINE  # address of its entry, or 0 to end; its argument
DONE = 2 * LINE  # how often workers have ended a step
WORKERS = 3 * LINE  # a line for each: PARKED or AWAKE; the address of its gate
PARKED, AWAKE = 1, 0


_KERNELS = "edgellama.team_kernels"
serve, lead, dismiss = (Entry(_KERNELS, name) for name in ("serve", "lead", "dismiss"))
ENTRIES = (serve, lead, dismiss)


class Team:
    """Calls an entry (argument, ith, nth) on n threads at once; the caller is thread 0.

    One step at a time. A forked process has none of its parent's threads; it starts its own when it
    first runs a step.
    """

    def __init__(self, n: int | None = None) -> None:
        """n None: as many as suit the machine. Raises ResourceError if there cannot be so many."""
        self.n = default_threads().count if n is None else n
        if not 1 <= self.n <= 1024:
            raise InvalidRequest(f"n_threads is {n}, expected 1..1024")
        self._start()

    def run(self, work: int, argument: int) -> None:
        """One step: the entry at address `work`, which is given (argument, ith, nth).

        All of it is one compiled call: Ctrl-C is seen after the step, never in the middle.
        """
        if self._pid != os.getpid():
            self._start()
        self._turn += 1
        lead.call(self._address, self.n, self._turn, work, argument)

    def close(self) -> None:
        """End the threads; to be called once no step is running. Closing again does nothing."""
        if self._threads and self._pid == os.getpid():
            dismiss.call(self._address, len(self._threads) + 1, self._turn + 1)
            for thread in self._threads:
                thread.join()
            for gate in self._gates:
                free_gate(gate)
        self._threads.clear()
        self._gates.clear()

    def _start(self) -> None:
        """Threads, and the memory that they share."""
        self._pid = os.getpid()
        self._turn = 0
        self._threads: list[threading.Thread] = []
        self._gates = [new_gate() for _ in range(1, self.n)]
        words = LINE // 8
        memory = np.zeros(WORKERS // 8 + self.n * words, np.int64)
        self._shared = memory[-memory.ctypes.data % LINE // 8 :]
        self._shared[WORKERS // 8 + 1 :: words][: self.n - 1] = self._gates
        self._address = self._shared.ctypes.data
        for ith in range(1, self.n):
            thread = threading.Thread(
                target=serve.call,
                args=(self._address, ith, self.n),
                name=f"edgellama-{ith}",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError:  # a limit of the system on processes or memory
                self.close()
                raise ResourceError(
                    f"only {ith} of {self.n} threads can be started; ask for fewer"
                ) from None
            self._threads.append(thread)
