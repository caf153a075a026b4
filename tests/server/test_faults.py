"""What sockets can do to a server: half requests, slow ones, false lengths, clients who leave."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest
from running_server import ENDLESS, PATIENCE_S, Running, request, wait_until

from edgellama.server import transport

CHAT = "/v1/chat/completions"


def chat(**options: Any) -> bytes:
    return request("POST", CHAT, json.dumps(ENDLESS | options).encode())


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\nhost: localhost\n\n", 400),
        (b"GET /health HTTP/1.1\r\nhost: localhost\nx: y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/9.9\r\nhost: localhost\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n", 400),
        (request("GET", "/health", x_long="y" * 200_000), 431),
        (request("GET", "/health", x_long="y" * 40_000), 431),
        (request("GET", "/" + "y" * 200_000), 431),
        (request("POST", CHAT, b"{}", transfer_encoding="chunked"), 400),
        (request("POST", CHAT, b"{}", content_length="2\r\ncontent-length: 3"), 400),
        (request("POST", CHAT, b"{}", content_length="-2"), 400),
        (request("POST", CHAT, b"{}", content_length="9" * 30), 400),
        (request("POST", CHAT, b"{}", content_length=None, transfer_encoding="xchunked"), 400),
        (request("POST", CHAT, b"zz\r\n", content_length=None, transfer_encoding="chunked"), 400),
        (request("POST", CHAT, b"{}", content_type="text/plain"), 415),
        (request("POST", CHAT, b"{}", content_type=None), 415),
        (request("POST", CHAT, b"{}", content_encoding="gzip"), 415),
    ],
)
def test_false_http_is_refused_and_the_connection_closed(
    server: Running, raw: bytes, status: int
) -> None:
    answered, body = server.ask(raw)
    assert answered == status
    assert body["error"]["message"]


def test_a_body_beyond_the_limit_is_refused_by_its_size(server: Running) -> None:
    status, answer = server.post(CHAT, b'{"a": "' + b"x" * (9 << 20) + b'"}')
    assert status == 413
    assert "8 MB" in answer["error"]["message"]


def test_a_body_in_chunks_counts_as_well(server: Running) -> None:
    chunk = b"%x\r\n%s\r\n" % (1 << 20, b"x" * (1 << 20))
    raw = request("POST", CHAT, chunk * 9 + b"0\r\n\r\n", content_length=None)
    raw = raw.replace(b"connection: close", b"connection: close\r\ntransfer-encoding: chunked")
    assert server.ask(raw)[0] == 413


def test_a_body_in_chunks_is_read(server: Running) -> None:
    data = json.dumps({"content": "Hello"}).encode()
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"
    raw = request("POST", "/tokenize", body, content_length=None, transfer_encoding="chunked")
    assert server.ask(raw)[0] == 200


def test_requests_on_one_connection_are_answered_in_turn(server: Running) -> None:
    one = request("GET", "/health", connection=None)
    with server.send(one * 3 + request("GET", "/health")) as connection:
        answer = b""
        while more := connection.recv(65536):
            answer += more
    assert answer.count(b"HTTP/1.1 200") == 4


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /heal",
        b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 100\r\n\r\n{",
    ],
    ids=["nothing", "head", "body"],
)
def test_a_request_that_never_ends_is_ended(
    server: Running, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "REQUEST_SECONDS", 0.3)
    began = time.monotonic()
    status, _ = server.ask(begun)
    assert status == 408
    assert time.monotonic() - began < 10


def test_dripping_bytes_do_not_extend_the_time(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "REQUEST_SECONDS", 0.5)
    began = time.monotonic()
    with server.send(b"GET /health HTTP/1.1\r\n") as connection:
        connection.settimeout(0.05)
        while time.monotonic() - began < 20:
            try:
                connection.send(b"x")
                if connection.recv(100):
                    break
            except TimeoutError:
                continue
            except ConnectionError:  # closed with a byte unread
                break
    assert 0.4 < time.monotonic() - began < 10


def test_a_crowd_of_slow_clients_does_not_slow_others(server: Running) -> None:
    def work_s() -> float:
        """Of this process, which the server is in: other processes do not count."""
        began = time.process_time()
        for _ in range(20):
            assert server.ask(request("GET", "/health"))[0] == 200
        return time.process_time() - began

    alone = min(work_s() for _ in range(3))
    slow = [server.send(b"GET /health HTT") for _ in range(200)]
    try:
        server.ask(request("GET", "/health"))  # now they are all taken in
        began = time.monotonic()
        assert min(work_s() for _ in range(3)) < 3 * alone + 0.1
        assert time.monotonic() - began < transport.REQUEST_SECONDS  # nor are they waited for
    finally:
        for connection in slow:
            connection.close()


def test_there_are_only_so_many_connections(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_CONNECTIONS", 5)
    held = [server.send(b"") for _ in range(5)]
    with server.send(b"") as connection:
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"\r\nRetry-After: " in answer
    for connection in held:
        connection.close()
    health = request("GET", "/health")
    wait_until(lambda: server.ask(health)[0] == 200, "places were not given back")


def test_a_reader_who_takes_nothing_is_let_go(
    start_server: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "STALL_SECONDS", 0.3)
    server = start_server()
    many = {"content": "a " * 500_000, "with_pieces": True}  # an answer of some 30 MB
    raw = request("POST", "/tokenize", json.dumps(many).encode())
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with connection:
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(PATIENCE_S)
        connection.sendall(raw)
        # In the end there is the one that asks for the metric.
        wait_until(lambda: server.metric("connections") == 1, "its answer was not dropped")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_who_leaves_frees_the_model(server: Running, stream: bool) -> None:
    with server.send(chat(stream=stream)) as connection:
        if stream:
            assert connection.recv(100)
        wait_until(lambda: server.n_requests() == 1, "it was not begun")
    server.wait_until_idle()


def test_a_client_of_openai_can_break_off_a_stream(server: Running) -> None:
    with server.client() as client:
        with client.chat.completions.create(
            model="tiny", messages=[], stream=True, extra_body=ENDLESS
        ) as stream:
            for _, _ in zip(range(3), stream, strict=False):
                pass
            assert server.metric("requests_active") == 1
        server.wait_until_idle()


def test_clients_who_leave_at_any_moment_leave_nothing_behind(server: Running) -> None:
    body: dict[str, Any] = {"prompt": "Once upon a time", "max_tokens": 6, "temperature": 0}
    _, golden = server.post("/v1/completions", body)
    for i in range(60):
        with server.send(chat(stream=i % 2 == 0)) as connection:
            time.sleep(0.001 * (i % 20))
            if i % 3 == 0:  # RST in place of FIN
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    server.wait_until_idle()
    _, again = server.post("/v1/completions", body)
    assert again["choices"] == golden["choices"]


def test_a_full_queue_says_when_to_come_again(start_server: Callable[..., Running]) -> None:
    server = start_server(llama={"n_parallel": 1, "queue_limit": 1})
    held = []
    for n in (1, 2):
        held.append(server.send(chat(stream=True)))
        wait_until(lambda n=n: server.n_requests() == n, "it was not taken in")
    with server.client() as client, pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="tiny", prompt="x")
    assert caught.value.status_code == 503
    assert caught.value.code == "overloaded"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    for connection in held:
        connection.close()
    server.wait_until_idle()


def test_of_a_crowd_each_is_answered_rightly_or_told_to_come_again(
    start_server: Callable[..., Running],
) -> None:
    server = start_server(llama={"n_parallel": 2, "queue_limit": 6})
    body = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
    raw = request("POST", "/v1/completions", json.dumps(body).encode())
    _, golden = server.ask(raw)
    with server.send(chat(stream=True)), server.send(chat(stream=True)):
        # The model is busy until all have come, and neither of these waits with them.
        wait_until(lambda: server.metric('requests_active{model="tiny"}') == 2, "both are begun")
        connections = [server.send(raw) for _ in range(64)]
        wait_until(
            lambda: server.metric('http_requests_total{status="503"}') == 64 - 6, "they all wait"
        )
    statuses = []
    for connection in connections:
        with connection:
            head, _, answer = connection.makefile("rb").read().partition(b"\r\n\r\n")
        statuses.append(int(head.split()[1]))
        if statuses[-1] == 200:
            assert json.loads(answer)["choices"] == golden["choices"]
        else:
            assert b"\r\nRetry-After: " in head
    assert (statuses.count(200), statuses.count(503)) == (6, 64 - 6)


def test_an_answer_that_takes_too_long_is_ended(start_server: Callable[..., Running]) -> None:
    server = start_server(timeout_s=0.3)
    status, answer = server.ask(chat())
    assert status == 504
    assert answer["error"]["code"] == "timeout"
    with server.client() as client, pytest.raises(openai.APIError, match="longer"):
        for _ in client.chat.completions.create(
            model="tiny", messages=[], stream=True, extra_body=ENDLESS
        ):
            pass
    server.wait_until_idle()


def test_answers_in_company_are_those_given_alone(server: Running) -> None:
    def ask(seed: int) -> bytes:
        body = {"prompt": f"Once upon {seed}", "max_tokens": 12, "seed": seed}
        return request("POST", "/v1/completions", json.dumps(body).encode())

    alone = [server.ask(ask(seed))[1]["choices"] for seed in range(16)]
    connections = [server.send(ask(seed)) for seed in range(16)]
    together = []
    for connection in connections:
        with connection:
            answer = connection.makefile("rb").read()
        together.append(json.loads(answer.partition(b"\r\n\r\n")[2])["choices"])
    assert together == alone
