"""Who may ask: names, pages and keys; and that keys and prompts stay out of the log."""

import logging
from collections.abc import Callable

import openai
import pytest
from running_server import Running, request

from edgellama.errors import InvalidRequest
from edgellama.server.access import Access
from edgellama.server.settings import Settings

TINY = {"tiny": None}
KEY = "secret-key-1"


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:9", "[::1]:8080", "[::1]"]
)
def test_this_machine_has_these_names(host: str) -> None:
    assert Access(Settings(TINY)).host_allowed(host)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example", "192.168.0.7", "[::2]", "127.0.0.1.x"]
)
def test_any_other_name_is_foreign(host: str) -> None:
    assert not Access(Settings(TINY)).host_allowed(host)


def test_a_server_for_a_network_is_asked_for_by_address_or_by_a_name_it_was_told() -> None:
    settings = Settings(
        TINY, host="0.0.0.0", api_keys=(KEY,), allow_hosts=frozenset(["Llama.local"])
    )
    access = Access(settings)
    assert access.host_allowed("192.168.0.7:8080")
    assert access.host_allowed("llama.local:8080")
    assert not access.host_allowed("evil.example")


def test_pages_may_ask_from_the_same_origin_or_an_allowed_one() -> None:
    access = Access(Settings(TINY, allow_origins=frozenset(["https://app.example"])))
    assert access.origin_allowed(None, "localhost:8080")
    assert access.origin_allowed("http://localhost:8080", "localhost:8080")
    assert access.origin_allowed("https://app.example", "localhost:8080")
    for foreign in (
        "null",
        "http://localhost:3000",
        "http://evil.example",
        "https://app.example.x",
    ):
        assert not access.origin_allowed(foreign, "localhost:8080")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Basic {KEY}", "Bearer secret-key", f"Bearer {KEY}x", KEY],
)
def test_only_the_whole_key_opens(authorization: str | None) -> None:
    access = Access(Settings(TINY, api_keys=("another", KEY)))
    assert not access.key_accepted(authorization)
    assert access.key_accepted(f"Bearer {KEY}")
    assert access.key_accepted("bearer another")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "llama.local"])
def test_other_machines_need_a_key_or_a_word(host: str) -> None:
    with pytest.raises(InvalidRequest, match="--insecure"):
        Settings(TINY, host=host)
    Settings(TINY, host=host, insecure=True)
    Settings(TINY, host=host, api_keys=(KEY,))


def test_foreign_names_and_pages_are_sent_away(server: Running) -> None:
    for path in ("/health", "/v1/models", "/"):
        status, answer = server.ask(request("GET", path, host="evil.example"))
        assert status == 403
        assert answer["error"]["code"] == "host_not_allowed"
    for origin in ("http://evil.example", "null"):
        status, answer = server.post("/tokenize", {"content": "x"}, origin=origin)
        assert status == 403
        assert answer["error"]["code"] == "origin_not_allowed"
    own = f"http://localhost:{server.port}"
    status, _ = server.post(
        "/tokenize", {"content": "x"}, origin=own, host=f"localhost:{server.port}"
    )
    assert status == 200


def test_no_page_of_another_origin_gets_leave_to_read(server: Running) -> None:
    with server.send(request("GET", "/health", origin="http://evil.example")) as connection:
        assert b"access-control" not in connection.makefile("rb").read().lower()
    preflight = request(
        "OPTIONS",
        "/v1/chat/completions",
        origin="http://evil.example",
        access_control_request_method="POST",
    )
    assert server.ask(preflight)[0] == 403


def test_a_page_of_an_allowed_origin_may_ask_and_read(
    start_server: Callable[..., Running],
) -> None:
    origin = "https://app.example"
    server = start_server(allow_origins=frozenset([origin]), api_keys=(KEY,))
    preflight = request(
        "OPTIONS",
        "/v1/chat/completions",
        origin=origin,
        access_control_request_method="POST",
        access_control_request_headers="authorization, content-type",
    )
    with server.send(preflight) as connection:
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 204")
    assert b"access-control-allow-origin: https://app.example" in answer
    assert b"access-control-allow-headers: authorization, content-type" in answer
    asked = request("GET", "/v1/models", origin=origin, authorization=f"Bearer {KEY}")
    with server.send(asked) as connection:
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"access-control-allow-origin: https://app.example" in answer


def test_a_key_is_asked_for_everywhere_but_at_the_page_and_health(
    start_server: Callable[..., Running],
) -> None:
    server = start_server(api_keys=(KEY,))
    for path in ("/v1/models", "/metrics", "/nothing", f"/v1/models?api_key={KEY}"):
        status, answer = server.ask(request("GET", path))
        assert status == 401, path
        assert answer["error"]["code"] == "invalid_api_key"
    assert server.ask(request("GET", "/health"))[0] == 200
    with server.send(request("GET", "/")) as connection:
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200")
    with server.client(KEY) as client:
        assert client.models.list().data
    with server.client(KEY + "x") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_the_log_has_a_line_a_request_and_no_secrets(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        body = {"prompt": "my secret prompt", "max_tokens": 3}
        _, answer = server.post("/v1/completions?token=hidden", body)
        server.ask(request("GET", "/v1/models?api_key=hidden", authorization="Bearer hidden"))
        server.post("/v1/completions", {"prompt": "my secret prompt", "wrong": "secret"})
    lines = [record.getMessage() for record in caplog.records if record.name == "edgellama.server"]
    n = answer["usage"]["completion_tokens"]
    assert any("POST /v1/completions 200" in line and f"+{n} tokens" in line for line in lines)
    assert any("POST /v1/completions 400" in line for line in lines)
    assert not any(word in caplog.text for word in ("secret", "hidden"))


def test_the_page_is_fenced_in(server: Running) -> None:
    with server.send(request("GET", "/")) as connection:
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert b"content-security-policy: default-src 'self'" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"text/html" in head
    assert b"<html" in body.lower()
