"""A server's life: its start, several models, its end; and the command line."""

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
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
from edgellama.errors import InvalidRequest
from edgellama.prefix_store import PrefixStore
from edgellama.server import run
from edgellama.server.app import ROUTES
from edgellama.server.fields import HARMLESS
from edgellama.server.settings import models_of

CHAT = "/v1/chat/completions"


def test_metrics_tell_what_the_disk_held(
    start_server: Callable[..., Running], tmp_path: Path
) -> None:
    body = {"prompt": [5] * 600, "max_tokens": 1}
    with closing(PrefixStore(tmp_path)) as store:
        for hits in (0, 9):  # blocks of 64 tokens; the second server finds what the first read
            server = start_server(llama={"prefix_store": store}, own_process=False)
            assert server.post("/v1/completions", body)[0] == 200
            assert server.metric("prefix_store_hits_total") == hits
            server.stop()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_sigterm_lets_answers_end_and_the_server_with_them() -> None:
    body = ENDLESS | {"max_tokens": 60, "stream": True}
    with command(EDGELLAMA_API_KEY="key", LANG="C") as (process, port):
        raw = request("POST", CHAT, json.dumps(body).encode(), authorization="Bearer key")
        with connect(port, raw) as connection:
            answer = connection.recv(10)
            process.send_signal(signal.SIGTERM)
            answer += connection.makefile("rb").read()
        assert b"[DONE]" in answer
        assert process.wait(PATIENCE_S) == 0
        with pytest.raises(OSError, match=r".*"):
            connect(port, b"")
        assert process.stderr is not None
        log = process.stderr.read()
        assert "Traceback" not in log
        assert f"POST {CHAT} 200" in log


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to whole groups")
def test_ctrl_c_ends_it_like_any_command() -> None:
    with command() as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130


def test_a_stream_that_would_outlast_the_end_is_told(
    start_server: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "GRACE_SECONDS", 1)
    server = start_server(llama={"n_parallel": 1})
    raw = request("POST", CHAT, json.dumps(ENDLESS | {"stream": True}).encode())
    connections = [server.send(raw) for _ in range(12)]
    wait_until(lambda: server.n_requests() == 12, "they were not taken in")
    server.stop()
    answers = []
    for connection in connections:
        with connection:
            answers.append(connection.makefile("rb").read())
    assert all(b'"code":"shutting_down"' in answer for answer in answers)


def test_a_port_that_is_taken_is_an_error_in_one_line(
    server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", str(server.port)]) == 1
    said = capsys.readouterr().err
    assert "another server" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--insecure"),
        (["--host", "no.such.host.invalid", "--insecure"], "no address of this machine"),
        (["nothing.gguf"], "nothing.gguf"),
        (["--port", "70000"], "port"),
        (["--api-key", "ä"], "ASCII"),
        (["--max-loaded", "0"], "one model"),
        (["--parallel", "0"], "n_parallel"),
        (["--timeout", "nan"], "more than 0"),
        (["--prefix-cache", "0", "--draft", "no.gguf"], "no.gguf"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", *arguments]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert "edgellama serve llama" in capsys.readouterr().out


def test_a_model_is_named_by_its_file_or_by_a_name(tiny_llama: Path) -> None:
    assert models_of([]) == {"tiny": None}
    assert models_of([str(tiny_llama), f"other={tiny_llama}"]) == {
        "tiny": tiny_llama,
        "other": tiny_llama,
    }
    with pytest.raises(InvalidRequest, match="taken"):
        models_of([str(tiny_llama)] * 2)


@pytest.fixture
def two_files(tiny_llama: Path) -> dict[str, Any]:
    llama = {"n_ctx": 128, "n_parallel": 1}
    return {"models": {"one": tiny_llama, "two": tiny_llama}, "llama": llama}


def complete(server: Running, model: str) -> tuple[int, dict[str, Any]]:
    return server.post("/v1/completions", {"model": model, "prompt": "once", "max_tokens": 2})


def loaded(server: Running) -> list[str]:
    _, answer = server.ask(request("GET", "/v1/models"))
    return [model["id"] for model in answer["data"] if model["status"]["value"] == "loaded"]


def test_models_are_loaded_when_they_are_asked_for(
    start_server: Callable[..., Running], two_files: dict[str, Any]
) -> None:
    server = start_server(**two_files)
    assert loaded(server) == ["one"]
    status, answer = complete(server, "two")
    assert (status, answer["model"]) == (200, "two")
    assert loaded(server) == ["one", "two"]
    assert complete(server, "default")[1]["model"] == "one"
    assert complete(server, "three")[0] == 404


def test_one_makes_room_for_another(
    start_server: Callable[..., Running], two_files: dict[str, Any]
) -> None:
    server = start_server(**two_files, max_loaded=1)
    for model in ("two", "one", "two"):
        assert complete(server, model)[0] == 200
        assert loaded(server) == [model]


def test_a_busy_model_is_not_taken_away(
    start_server: Callable[..., Running], two_files: dict[str, Any]
) -> None:
    server = start_server(**two_files, max_loaded=1)
    answers: list[int] = []
    models = ["one", "two"] * 6
    threads = [
        threading.Thread(target=lambda m=m: answers.append(complete(server, m)[0])) for m in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 12


def test_a_model_that_nobody_asks_for_is_unloaded_and_comes_back(
    start_server: Callable[..., Running], two_files: dict[str, Any]
) -> None:
    server = start_server(**two_files, idle_unload_s=0.2)
    wait_until(lambda: not loaded(server), "it is still loaded")
    assert complete(server, "one")[0] == 200


def test_a_file_that_cannot_be_loaded_is_an_error_of_its_own_requests(
    start_server: Callable[..., Running], two_files: dict[str, Any], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xff" * 100)
    two_files["models"]["broken"] = broken
    server = start_server(**two_files)
    status, answer = complete(server, "broken")
    assert status == 500
    assert answer["error"]["code"] == "model_failed"
    assert "broken.gguf" in answer["error"]["message"]
    assert complete(server, "one")[0] == 200


def test_a_file_that_is_written_to_is_told_of_and_opened_again(
    start_server: Callable[..., Running], tiny_llama: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(tiny_llama, tmp_path / "own.gguf"))
    client = start_server(models={"own": path}, llama={"n_ctx": 128}).client()

    def ask() -> str:
        answer = client.completions.create(model="own", prompt="hello", max_tokens=4, temperature=0)
        return answer.choices[0].text

    expected = ask()
    os.utime(path, ns=(1, 1))
    with pytest.raises(openai.InternalServerError, match="was written to") as refusal:
        ask()
    assert (refusal.value.status_code, refusal.value.code) == (503, "model_changed")
    assert ask() == expected
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(openai.InternalServerError, match="was written to"):
        ask()
    with pytest.raises(openai.APIStatusError, match=r"incomplete|truncated|bytes"):
        ask()
    os.replace(shutil.copy(tiny_llama, tmp_path / "new.gguf"), path)
    assert ask() == expected
    os.replace(shutil.copy(tiny_llama, tmp_path / "new.gguf"), path)  # the old one goes on
    assert ask() == expected


def test_metrics_count_what_was_done(start_server: Callable[..., Running]) -> None:
    server = start_server()
    body = {"prompt": "Once upon a time", "max_tokens": 7}
    used = [server.post("/v1/completions", body)[1]["usage"] for _ in range(2)]
    assert server.metric("requests_total") == 2
    n_predicted = sum(usage["completion_tokens"] for usage in used)
    assert server.metric("predicted_tokens_total") == n_predicted > 0
    total = server.metric("prompt_tokens_total") + server.metric("cached_tokens_total")
    assert total == sum(usage["prompt_tokens"] for usage in used)
    assert server.metric('http_requests_total{status="200"}') >= 2


def test_every_path_and_every_harmless_field_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    for method, path, _ in ROUTES:
        assert f"`{method} {path}`" in text
    for field in HARMLESS:
        assert f"`{field}" in text
