"""Threads that run a step together."""

import ctypes
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import psutil
import pytest

from edgellama.errors import InvalidRequest, ResourceError
from edgellama.quant.jit import entry
from edgellama.quant.simd.atomic import barrier, fetch_add
from edgellama.quant.simd.vector import load_i64, store
from edgellama.team import Team

ROUNDS = 500
N_CHUNKS = 10000
A_WHILE = 0.05  # seconds: long after a worker has parked


@entry
def count_in_turns(shared, ith, nth):
    """Each round every thread adds one, waits, and checks that all have; errors are counted."""
    for number in range(ROUNDS):
        fetch_add(shared + 64, 1)
        barrier(shared, nth)
        if load_i64(shared + 64) != (number + 1) * nth:
            fetch_add(shared + 128, 1)
        barrier(shared, nth)


@entry
def take_chunks(shared, ith, nth):
    """A counter, a cache line away from it the chunks."""
    while True:
        i = fetch_add(shared, 1)
        if i >= N_CHUNKS:
            return
        store(shared + 64 + i * 8, load_i64(shared + 64 + i * 8) + 1)


@entry
def count_me(shared, ith, nth):
    fetch_add(shared + ith * 8, 1)


@pytest.fixture
def team() -> Iterator[Team]:
    with closing(Team(4)) as team:
        yield team


def memory(words: int) -> "np.ndarray":
    return np.zeros(words, np.int64)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_nobody_passes_a_barrier_early(n: int) -> None:
    shared = memory(32)
    with closing(Team(n)) as team:
        team.run(count_in_turns.address, shared.ctypes.data)
    assert shared[8] == ROUNDS * n
    assert shared[16] == 0


def test_every_chunk_is_taken_once(team: Team) -> None:
    shared = memory(8 + N_CHUNKS)
    team.run(take_chunks.address, shared.ctypes.data)
    assert (shared[8:] == 1).all()


def test_every_thread_runs_every_step(team: Team) -> None:
    shared = memory(4)
    for n_steps in range(1, 2000):
        team.run(count_me.address, shared.ctypes.data)
        assert (shared == n_steps).all()  # and all have ended when run returns


def test_a_step_wakes_whoever_is_parked_or_about_to_be(team: Team) -> None:
    shared = memory(4)
    rng = np.random.default_rng(0)
    for n_steps in range(1, 300):
        time.sleep(rng.uniform(0, 600e-6))  # workers park after some 200 us
        team.run(count_me.address, shared.ctypes.data)
        assert (shared == n_steps).all()


def workers() -> set[threading.Thread]:
    """Of all teams that are open."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("edgellama-")}


def test_an_idle_team_uses_no_processor_time() -> None:
    before = workers()
    with closing(Team(8)) as team:
        ours = {thread.native_id for thread in workers() - before}

        def work_s() -> float:
            threads = psutil.Process().threads()
            return sum(t.user_time + t.system_time for t in threads if t.id in ours)

        team.run(count_me.address, memory(8).ctypes.data)
        time.sleep(A_WHILE)
        begun = work_s()
        time.sleep(10 * A_WHILE)
        used = work_s() - begun
    assert len(ours) == 7
    assert used <= 0.02  # two ticks of the clock by which Linux tells it; spinning: 0.5 or more


def test_a_closed_team_has_ended_its_threads() -> None:
    before = workers()
    for pause in (0, A_WHILE):  # waiting workers and parked ones
        team = Team(4)
        ours = workers() - before
        assert len(ours) == 3
        time.sleep(pause)
        team.close()
        assert not any(thread.is_alive() for thread in ours)
        team.close()


def test_a_team_that_is_never_closed_does_not_hold_up_the_end_of_the_process() -> None:
    program = """
        from edgellama.team import Team
        teams = [Team(3), Team(2)]
        print("done")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    program = """
        import os, warnings
        import numpy as np
        from edgellama.team import Team
        from tests_team_entry import count_me

        warnings.simplefilter("ignore")  # Python warns of forks beside threads
        shared = np.zeros(3, np.int64)
        team = Team(3)
        team.run(count_me.address, shared.ctypes.data)
        child = os.fork()
        team.run(count_me.address, shared.ctypes.data)
        team.close()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (shared == 2).all(), shared
    """
    program = textwrap.dedent(program).replace("tests_team_entry", __name__.rpartition(".")[2])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_entries_release_the_gil() -> None:
    shared = memory(32)
    # two threads of one process can only meet at a barrier if neither holds the GIL
    other = threading.Thread(target=count_in_turns.call, args=(shared.ctypes.data, 1, 2))
    other.start()
    count_in_turns.call(shared.ctypes.data, 0, 2)
    other.join()
    assert ctypes.c_int64(shared[8]).value == 2 * ROUNDS


@pytest.mark.parametrize("n", [0, -1, 2000])
def test_a_senseless_number_of_threads_is_refused(n: int) -> None:
    with pytest.raises(InvalidRequest, match=f"n_threads is {n}"):
        Team(n)


def test_threads_that_the_system_refuses_are_an_error_and_leave_none_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_three(thread: threading.Thread) -> None:
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_three)
    with pytest.raises(ResourceError, match="only 4 of 9 threads"):
        Team(9)
    assert not any(thread.is_alive() for thread in started)
