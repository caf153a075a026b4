"""What the threads of a team run: the worker's loop, and the leader's part of a step."""

from .quant.jit import entry, kernel
from .quant.records import call_entry
from .quant.simd.atomic import (
    SPINS,
    exchange,
    fetch_add,
    load_shared,
    open_gate,
    pass_gate,
    spin_until,
    wait_until,
)
from .quant.simd.vector import load_i64, store
from .team import AWAKE, DONE, LINE, PARKED, TURN, WORK, WORKERS

MOMENT = 3 * SPINS  # pauses before a worker parks: some 200 us


@entry
def serve(shared: int, ith: int, nth: int) -> None:
    """Run steps as thread `ith` until there are no more."""
    me = shared + WORKERS + (ith - 1) * LINE
    turn = 1
    while True:
        # A gate may still open for the turn before, which this worker ran without being woken.
        while not spin_until(shared + TURN, turn, MOMENT):
            # The worker writes its mark and reads the turn, the leader writes the turn and reads
            # the mark: one of them sees the other. Whoever takes the mark away settles it.
            exchange(me, PARKED)
            if load_shared(shared + TURN) < turn or exchange(me, AWAKE) == AWAKE:
                pass_gate(load_i64(me + 8))
        work = load_i64(shared + WORK)
        if work == 0:
            return
        call_entry(work, (load_i64(shared + WORK + 8), ith, nth))
        fetch_add(shared + DONE, 1)
        turn += 1


@kernel
def announce(shared: int, nth: int, turn: int, work: int, argument: int) -> None:
    """Let workers begin step number `turn`."""
    store(shared + WORK, work)
    store(shared + WORK + 8, argument)
    exchange(shared + TURN, turn)
    for i in range(nth - 1):
        worker = shared + WORKERS + i * LINE
        if exchange(worker, AWAKE) == PARKED:
            open_gate(load_i64(worker + 8))


@entry
def lead(shared: int, nth: int, turn: int, work: int, argument: int) -> None:
    """Run step number `turn`, as thread 0 and with all workers; return when all have ended it."""
    announce(shared, nth, turn, work, argument)
    call_entry(work, (argument, 0, nth))
    wait_until(shared + DONE, turn * (nth - 1))


@entry
def dismiss(shared: int, nth: int, turn: int) -> None:
    """Let workers end."""
    announce(shared, nth, turn, 0, 0)
