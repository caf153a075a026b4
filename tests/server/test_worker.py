"""The process that computes may die at any moment; the server does not."""

import asyncio
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from running_server import (
    ENDLESS,
    PATIENCE_S,
    Running,
    command,
    connect,
    request,
    wait_until,
)

from edgellama.cli import main
from edgellama.llama import shipped_model
from edgellama.server import frames, worker
from edgellama.server.frames import Channel, Frame
from edgellama.server.settings import Settings
from edgellama.server.worker import Worker
from edgellama.server.worker_process import Notes

CHAT = "/v1/chat/completions"
SHORT = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
HEALTH = request("GET", "/health")


def chat(**options: Any) -> bytes:
    return request("POST", CHAT, json.dumps(ENDLESS | options).encode())


def kill_worker(server: Running) -> None:
    psutil.Process(server.worker.pid).kill()


def health(server: Running) -> int:
    status, _ = server.ask(HEALTH)
    assert status in (200, 503)
    return status


def wait_until_healthy(server: Running) -> None:
    wait_until(lambda: health(server) == 200, "no other worker came")


def wait_until_noticed(server: Running) -> None:
    wait_until(lambda: health(server) == 503, "its death was not noticed")


def read(connection: socket.socket) -> bytes:
    with connection, connection.makefile("rb") as file:
        return file.read()


# --- its death


def test_kill_9_during_20_streams_ends_them_with_an_error_and_not_the_server(
    start_server: Callable[..., Running],
) -> None:
    server = start_server(llama={"n_parallel": 20})
    _, golden = server.post("/v1/completions", SHORT)
    streams = [server.send(chat(stream=True)) for _ in range(20)]
    whole = server.send(chat())
    for stream in streams:
        assert stream.recv(12) == b"HTTP/1.1 200"
    kill_worker(server)
    for stream in streams:
        answer = read(stream)
        last = answer[answer.rindex(b"data: ") :]
        assert b'"code":"worker_died"' in last
        assert last.endswith(b"\n\n\r\n0\r\n\r\n")  # of the chunks: the answer came to an end
    answer = read(whole)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"\r\nRetry-After: " in answer
    wait_until_healthy(server)
    _, again = server.post("/v1/completions", SHORT)
    assert again["choices"] == golden["choices"]
    assert server.metric("worker_restarts_total") == 1
    assert server.metric("requests_active") == 0


def test_while_there_is_no_worker_all_are_told_to_come_again(
    start_server: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = threading.Event()

    def until_seen(n_deaths: int) -> float:
        seen.wait(PATIENCE_S)
        return 0

    monkeypatch.setattr(worker, "delay_s", until_seen)
    server = start_server()
    kill_worker(server)
    wait_until_noticed(server)
    for path in ("/health", "/v1/models", "/"):
        status, answer = server.ask(request("GET", path))
        assert (status, answer["error"]["code"]) == (503, "worker_starting")
    assert server.metric("worker_up") == 0
    assert server.metric('http_requests_total{status="503"}') >= 4
    seen.set()
    wait_until_healthy(server)
    assert server.metric("worker_up") == 1


def test_one_death_after_another_is_waited_for_longer_and_longer() -> None:
    assert [worker.delay_s(n) for n in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, 30]
    assert worker.delay_s(10_000) == 30  # where nothing can be started for days


def test_a_server_that_waits_before_another_start_can_be_ended(
    start_server: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "delay_s", lambda n_deaths: 1000.0)
    server = start_server()
    kill_worker(server)
    wait_until_noticed(server)
    server.stop()


def test_a_server_that_starts_another_worker_can_be_ended(
    start_server: Callable[..., Running],
) -> None:
    running = psutil.Process().children()
    server = start_server()
    before = server.worker.pid
    kill_worker(server)
    while server.worker.pid in (None, before):
        time.sleep(0.001)
    server.stop()
    assert psutil.Process().children() == running


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody cut off a file in use")
def test_a_file_cut_off_during_an_answer_ends_answers_and_works_again_once_it_is_whole(
    start_server: Callable[..., Running], tmp_path: Path
) -> None:
    path = tmp_path / "own.gguf"
    with shipped_model() as shipped:
        shutil.copy(shipped, path)
        whole = Path(shutil.copy(shipped, tmp_path / "whole.gguf"))
    server = start_server(models={"own": path})
    _, golden = server.post("/v1/completions", SHORT)
    answers = [server.send(chat(stream=stream)) for stream in (True, False)]
    assert answers[0].recv(12) == b"HTTP/1.1 200"
    os.truncate(path, path.stat().st_size // 2)
    for connection in answers:
        assert b'"code":"model_changed"' in read(connection)
    wait_until_healthy(server)
    for _ in range(2):
        status, refusal = server.post("/v1/completions", SHORT)
        assert (status, refusal["error"]["code"]) == (500, "model_failed")
        assert "own.gguf" in refusal["error"]["message"]
        assert "incomplete" in refusal["error"]["message"]
    os.replace(whole, path)
    _, again = server.post("/v1/completions", SHORT)
    assert again["choices"] == golden["choices"]
    assert server.metric("worker_restarts_total") == 1


def test_a_worker_of_many_models_dies_for_all_and_comes_back_for_all(
    start_server: Callable[..., Running], tiny_llama: Path
) -> None:
    server = start_server(models={"one": tiny_llama, "two": tiny_llama}, llama={"n_ctx": 128})
    body = {"model": "two", "prompt": "once", "max_tokens": 2}
    assert server.post("/v1/completions", body)[0] == 200
    kill_worker(server)
    wait_until_noticed(server)
    wait_until_healthy(server)
    assert server.post("/v1/completions", body)[0] == 200


# --- the end of both


@contextmanager
def no_process_left(process: "subprocess.Popen[str]") -> Any:
    """The process and what it started end while the context lasts."""
    started = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(started) > 1  # the server and the one that computes
    yield
    process.wait(PATIENCE_S)
    _, alive = psutil.wait_procs(started, PATIENCE_S)
    assert not alive


def test_a_server_that_is_killed_leaves_no_worker() -> None:
    with command() as (process, port), no_process_left(process), connect(port, chat(stream=True)):
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_sigterm_in_the_midst_of_streams_and_idle_connections_leaves_nothing() -> None:
    with command() as (process, port), no_process_left(process):
        idle = [connect(port, b""), connect(port, request("GET", "/health", connection=None))]
        streams = [connect(port, chat(stream=True, max_tokens=50)) for _ in range(3)]
        for stream in streams:
            stream.recv(1)
        for own in psutil.Process(process.pid).children():  # as systemd does: it is sent to all
            own.terminate()
        process.terminate()
        for stream in streams:
            assert b"[DONE]" in read(stream)
        for connection in idle:
            connection.close()
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a process group")
def test_ctrl_c_at_a_terminal_leaves_nothing_and_says_nothing() -> None:
    with command(new_session=True) as (process, _):
        with no_process_left(process):
            os.killpg(process.pid, signal.SIGINT)
        assert process.returncode == 130
        assert said(process) == ""


def takes_connections(port: int) -> bool:
    try:
        connect(port, b"").close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="needs a process group")
def test_ctrl_c_twice_waits_for_no_answer() -> None:
    with command(new_session=True) as (process, port):
        with no_process_left(process), connect(port, chat(stream=True)) as stream:
            stream.recv(1)
            os.killpg(process.pid, signal.SIGINT)
            wait_until(lambda: not takes_connections(port), "it goes on as if nothing was pressed")
            os.killpg(process.pid, signal.SIGINT)
        assert process.returncode == 130
        assert "Traceback" not in said(process)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_signals_of_a_terminal_neither_end_nor_stop_the_worker(server: Running) -> None:
    status = Path(f"/proc/{server.worker.pid}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTTOU):
        assert ignored >> (number - 1) & 1, number


def said(process: "subprocess.Popen[str]") -> str:
    """What it wrote to stderr besides the log of what it did."""
    assert process.stderr is not None
    return "".join(line for line in process.stderr if "unloaded tiny" not in line)


def test_a_first_model_that_cannot_be_opened_is_an_error_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    running = psutil.Process().children()
    assert main(["serve", "--port", "0", str(broken)]) == 1
    said = capfd.readouterr().err
    assert "broken.gguf" in said
    assert said.count("\n") == 1
    assert psutil.Process().children() == running


# --- what runs where


def test_the_server_itself_does_not_compute() -> None:
    code = (
        "import sys, edgellama.cli.serve, edgellama.server.run;"
        " print({'numpy', 'numba', 'gguf'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_all_can_be_one_process(start_server: Callable[..., Running], server: Running) -> None:
    alone = start_server(own_process=False)
    assert alone.ask(HEALTH) == (200, {"status": "ok"})
    _, expected = server.post("/v1/completions", SHORT)
    _, answer = alone.post("/v1/completions", SHORT)
    assert answer["choices"] == expected["choices"]
    assert alone.metric('http_requests_total{status="200"}') == 2
    assert b"[DONE]" in read(alone.send(chat(stream=True, max_tokens=5)))


def test_options_that_are_no_plain_data_are_refused() -> None:
    running = psutil.Process().children()
    with pytest.raises(TypeError, match="JSON"):
        Worker(Settings(models={"tiny": None}, llama={"prefix_store": object()}))
    assert psutil.Process().children() == running


# --- frames


@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=40)),
        max_size=6,
    ),
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
def test_frames_arrive_whole_whatever_the_pieces(
    sent: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    data = b"".join(struct.pack("<IBI", len(f[2]), *f[:2]) + f[2] for f in sent)
    arrived: list[Frame] = []

    async def receive() -> None:
        channel = Channel(arrived.append, lambda: None)
        at = 0
        while at < len(data):
            size = cuts[at % len(cuts)]
            channel.data_received(data[at : at + size])
            at += size

    asyncio.run(receive())
    assert arrived == sent


def test_of_a_long_answer_only_so_much_is_on_its_way() -> None:
    made = Worker(Settings(models={"tiny": None}, llama={"n_ctx": 128}))
    head = {"method": "POST", "path": "/tokenize", "raw_path": "/tokenize"}
    body = json.dumps({"content": "a " * 50_000, "with_pieces": True}).encode()

    async def story() -> bytes:
        keeping = asyncio.create_task(made.keep())
        await made.attended.wait()
        text = b""
        with made.ask(head, body) as answer:
            assert (await answer.next()).kind == frames.START
            while len(text) <= frames.WINDOW:
                text += (await answer.next()).payload
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(answer.next(), 0.5)
            answer.taken(len(text))
            while not answer.ended:
                text += (more := (await answer.next()).payload)
                answer.taken(len(more))
        made.end()
        await keeping
        return text

    try:
        assert len(json.loads(asyncio.run(story()))["tokens"]) >= 50_000
    finally:
        made.close()


def test_notes_from_other_threads_stand_between_frames() -> None:
    ours, theirs = socket.socketpair()

    async def story() -> list[Frame]:
        channel = Channel(lambda frame: None, lambda: None)
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=theirs)
        notes = Notes(theirs)
        notes.go_through(channel)
        receiving = asyncio.get_running_loop().run_in_executor(
            None, lambda: [frames.receive(ours) for _ in range(200)]
        )
        for _ in range(100):
            channel.send(frames.BODY, 1, b"x" * frames.PIECE)
            await asyncio.to_thread(notes, "compiling")
        received = await receiving
        channel.abort()
        return [frame for frame in received if frame is not None]

    with ours:
        arrived = asyncio.run(story())
    assert arrived.count(Frame(frames.NOTE, 0, b"compiling")) == 100
    assert arrived.count(Frame(frames.BODY, 1, b"x" * frames.PIECE)) == 100
