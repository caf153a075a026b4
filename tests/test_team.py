"""Threads that run a step together."""

import ctypes
import threading

import numpy as np
import pytest

from edgellama.errors import InvalidRequest
from edgellama.quant.jit import entry
from edgellama.quant.simd.atomic import barrier, fetch_add
from edgellama.quant.simd.vector import load_i64, store
from edgellama.team import Team


@entry
def count_in_turns(shared, ith, nth, rounds):
    """Each round every thread adds one, waits, and checks that all have; errors are counted."""
    for number in range(rounds):
        fetch_add(shared + 64, 1)
        barrier(shared, nth)
        if load_i64(shared + 64) != (number + 1) * nth:
            fetch_add(shared + 128, 1)
        barrier(shared, nth)


@entry
def take_chunks(shared, ith, n, out):
    while True:
        i = fetch_add(shared, 1)
        if i >= n:
            return
        store(out + i * 8, load_i64(out + i * 8) + 1)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_nobody_passes_a_barrier_early(n: int) -> None:
    shared = np.zeros(32, np.int64)
    team = Team(n)
    team.run(lambda ith, nth: count_in_turns.call(shared.ctypes.data, ith, nth, 500))
    team.close()
    assert shared[8] == 500 * n
    assert shared[16] == 0


def test_every_chunk_is_taken_once() -> None:
    shared, out = np.zeros(8, np.int64), np.zeros(10000, np.int64)
    team = Team(3)
    team.run(lambda ith, nth: take_chunks.call(shared.ctypes.data, ith, len(out), out.ctypes.data))
    team.close()
    assert (out == 1).all()


def test_a_team_runs_again_and_again_and_ends_with_its_threads() -> None:
    before = threading.active_count()
    team = Team(4)
    seen: list[int] = []
    for _ in range(50):
        team.run(lambda ith, nth: seen.append(ith))
    assert sorted(seen) == sorted([0, 1, 2, 3] * 50)
    team.close()
    assert threading.active_count() == before


def test_entries_release_the_gil() -> None:
    shared = np.zeros(32, np.int64)
    # two threads of one process can only meet at a barrier if neither holds the GIL
    other = threading.Thread(target=count_in_turns.call, args=(shared.ctypes.data, 1, 2, 10))
    other.start()
    count_in_turns.call(shared.ctypes.data, 0, 2, 10)
    other.join()
    assert ctypes.c_int64(shared[8]).value == 20


@pytest.mark.parametrize("n", [0, -1, 2000])
def test_a_senseless_number_of_threads_is_refused(n: int) -> None:
    with pytest.raises(InvalidRequest, match=f"n_threads is {n}"):
        Team(n)
