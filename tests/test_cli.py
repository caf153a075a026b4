"""The command line: exit status, what goes to which stream, and that no fault is a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgellama import Llama, __version__, cli

EDGELLAMA = [sys.executable, "-m", "edgellama"]


def edgellama(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; input=, env= as subprocess.run takes them."""
    options = {"stdin": subprocess.DEVNULL} | options if "input" not in options else options
    return subprocess.run(
        [*EDGELLAMA, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        **options,
    )


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a command line, in this process."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as leaving:  # argparse
        status = int(leaving.code or 0)
    return status, *capsys.readouterr()


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "--help")
    assert status == 0
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_a_command_shows_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, _ = call(capsys, command, "--help")
    assert status == 0
    assert re.search(rf"^examples:\n(  .*\n)*  edgellama {command} ?", out, re.MULTILINE)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version") == (0, f"edgellama {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    ["dance", "--loud", "run --loud", "run -n many", "run -p a -f b"],
)
def test_what_is_not_known_is_refused_with_2(
    capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    status, out, err = call(capsys, *arguments.split())
    assert (status, out) == (2, "")
    assert "error:" in err


def test_options_are_not_guessed_from_their_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "run", "--see", "3")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "missing.gguf", "-p", "x"], "missing.gguf"),
        (["run", "MODEL", "-p", "x", "--temp", "nan"], "temperature must be a number"),
        (["run", "MODEL", "-p", "x", "--seed", "-1"], "seed"),
        (["run", "MODEL", "-p", "x", "-n", "0"], "max_tokens"),
        (["run", "MODEL", "-p", "x", "--ctx", "-5"], "n_ctx"),
        (["run", "MODEL", "-p", "x", "--stop", ""], "stop"),
        (["run", "MODEL", "-f", "missing.txt"], "missing.txt: No such file"),
        (["tokenize", "MODEL", "--decode", "1", "two"], "whole numbers, not '1 two'"),
        (["tokenize", "MODEL", "--decode", "999999"], "999999"),
        (["tokenize", "MODEL", "one", "-p", "two"], "once"),
        (["chat", "MODEL"], "no chat template"),
        (["chat", "MODEL", "--chat-format", "morse"], "morse"),
    ],
)
def test_an_error_is_one_line_and_1(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, arguments: list[str], words: str
) -> None:
    arguments = [str(tiny_llama) if a == "MODEL" else a for a in arguments]
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("edgellama: error: ")
    assert words in err
    assert err.count("\n") == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "run", "no.gguf", "-p", "x"], ["run", "no.gguf", "--debug"]):
        status, _, err = call(capsys, *arguments, "-p", "x")
        assert status == 1
        assert "Traceback" in err
        assert "\nedgellama: error: " in err


def test_run_streams_what_the_library_says(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path
) -> None:
    with Llama(tiny_llama) as llm:
        expected = llm.generate("hello the cat", max_tokens=9, temperature=1.2, seed=4).read()
    arguments = ["run", tiny_llama, "-p", "hello the cat", "-n", 9, "--temp", 1.2, "--seed", 4]
    assert call(capsys, *arguments) == (0, expected.text + "\n", "")

    status, out, err = call(capsys, *arguments, "--json")
    answer = json.loads(out)
    assert (status, err) == (0, "")
    assert answer["text"] == expected.text
    assert answer["tokens"] == expected.tokens
    assert answer["finish_reason"] == "length"
    assert answer["prompt_tokens"] == expected.prompt_tokens
    assert answer["seed"] == 4
    assert answer["timings"]["predicted_n"] == 9


def test_the_seed_that_was_drawn_is_told_and_repeats_the_text(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path
) -> None:
    arguments = ["run", tiny_llama, "-p", "hello", "-n", 12, "--temp", 2, "--json"]
    first = json.loads(call(capsys, *arguments)[1])
    again = json.loads(call(capsys, *arguments, "--seed", first["seed"])[1])
    assert again["tokens"] == first["tokens"]


def test_the_sampling_flags_reach_the_sampler(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path
) -> None:
    def tokens(*flags: object) -> list[int]:
        common = ["run", tiny_llama, "-p", "hello", "-n", 12, "--seed", 1, "--json"]
        return json.loads(call(capsys, *common, *flags)[1])["tokens"]

    greedy = tokens("--temp", 0)
    for narrow in (["--top-k", 1], ["--top-p", 0], ["--min-p", 1]):
        assert tokens("--temp", 5, *narrow) == greedy
    assert tokens("--temp", 5, "--top-k", 0, "--top-p", 1, "--min-p", 0) != greedy
    assert tokens("--temp", 0, "--repeat-penalty", 5) != greedy
    assert tokens("--temp", 0, "--repeat-penalty", 5, "--repeat-last-n", 0) == greedy


def test_run_takes_its_text_from_a_file_or_a_pipe(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello é", encoding="utf-8")
    options = ["-n", 5, "--temp", 0, "--backend", "reference"]
    given = edgellama("run", tiny_llama, "-p", "hello é", *options)
    assert given.stdout != ""
    from_file = edgellama("run", tiny_llama, "-f", tmp_path / "text", *options)
    from_pipe = edgellama("run", tiny_llama, *options, input="hello é")
    from_dash = edgellama("run", tiny_llama, "-p", "-", *options, input="hello é")
    assert from_file.stdout == from_pipe.stdout == from_dash.stdout == given.stdout


def test_run_says_when_the_context_was_the_end(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path
) -> None:
    options = ["--ctx", 32, "--temp", 0, "--backend", "reference"]
    status, _, err = call(capsys, "run", tiny_llama, "-p", "hello", "-n", -1, *options)
    assert (status, err) == (0, "[stopped: the context of 32 tokens is full]\n")
    status, out, err = call(capsys, "run", tiny_llama, "-p", "x" * 50, *options)
    assert (status, out) == (1, "")
    assert "tokens, the context holds 32; shorten it or load with n_ctx=" in err


def test_tokenize_and_back(capsys: pytest.CaptureFixture[str], tiny_llama: Path) -> None:
    with Llama(tiny_llama, backend="reference") as llm:
        ids = llm.tokenize("hello <s> é", bos=True)
        special = llm.tokenize("hello <s> é", special=True)
        pieces = [llm.tokenizer.piece(i).decode(errors="backslashreplace") for i in ids]

    def out(*arguments: object) -> str:
        status, out, err = call(capsys, "tokenize", tiny_llama, *arguments)
        assert (status, err) == (0, "")
        return out

    assert out("hello <s> é") == out("-p", "hello <s> é") == " ".join(map(str, ids)) + "\n"
    assert json.loads(out("hello <s> é", "--json")) == ids
    assert json.loads(out("hello <s> é", "--json", "--special", "--no-bos")) == special
    assert json.loads(out("hello <s> é", "--json", "--show")) == [
        [i, p] for i, p in zip(ids, pieces, strict=True)
    ]
    assert len(out("hello <s> é", "--show").splitlines()) == len(ids)
    assert out("--decode", *ids) == out("--decode", str(ids)) == "hello <s> é\n"
    assert json.loads(out("--decode", *ids, "--json")) == "hello <s> é"


def test_tokenize_reads_pipes(tiny_llama: Path) -> None:
    ids = edgellama("tokenize", tiny_llama, input="hello 🦙").stdout
    back = edgellama("tokenize", tiny_llama, "--decode", input=ids)
    assert back.stdout == "hello 🦙\n"


def test_doctor_reports_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "doctor")
    assert err == ""
    assert status == (1 if "FAULT" in out else 0)
    for finding in ("edgellama ", "python ", "packages ", "CPU ", "cores ", "kernel cache "):
        assert f"\n{finding}" in f"\n{out}"


def test_doctor_names_a_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = edgellama("doctor", env={**os.environ, "EDGELLAMA_CPU": "abacus"})
    assert process.returncode == 1
    assert "FAULT: EDGELLAMA_CPU=abacus" in process.stdout


def test_bytes_that_are_no_text_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes("caf\u00e9".encode("latin-1"))
    failed = edgellama("run", tiny_llama, "-f", tmp_path / "latin1")
    assert failed.returncode == 1
    assert "latin1 is not UTF-8 text: byte 3 is wrong" in failed.stderr
    for command in ("run", "chat --chat-format alpaca --backend reference", "tokenize"):
        with open(tmp_path / "latin1", "rb") as pipe:
            failed = edgellama(*command.split(), tiny_llama, stdin=pipe)
        assert failed.returncode == 1
        assert "not UTF-8 text" in failed.stderr
        assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("encoding", ["C", "C.UTF-8", "POSIX"])
def test_pipes_carry_utf8_whatever_the_locale(tiny_llama: Path, encoding: str) -> None:
    env = {**os.environ, "LC_ALL": encoding, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = edgellama("tokenize", tiny_llama, "--decode", "--json", input="[402, 405]", env=env)
    assert (done.returncode, json.loads(done.stdout)) == (0, "é本")


@pytest.mark.skipif(os.name == "nt", reason="closes file descriptors as a POSIX shell does")
def test_closed_streams_are_no_fault(tiny_llama: Path) -> None:
    command = " ".join([*EDGELLAMA, "tokenize", str(tiny_llama), "hello"])
    for closed in (">&-", "<&-", "2>&-", ">&- 2>&- <&-"):
        done = subprocess.run(f"{command} {closed}", shell=True, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error(tiny_llama: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*EDGELLAMA, "tokenize", tiny_llama, "hello"],
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "edgellama: error: No space left on device\n",
    )


@pytest.fixture(scope="module")
def endless_model(
    tmp_path_factory: pytest.TempPathFactory, write_tiny_llama: Callable[..., Path]
) -> Path:
    path = tmp_path_factory.mktemp("endless") / "endless.gguf"
    return write_tiny_llama(path, context_length=2**20)


def endless_run(model: Path) -> subprocess.Popen[bytes]:
    """A run that writes and writes, and has begun to."""
    options = ["-p", "hello", "-n", "-1", "--temp", "0", "--ctx", "0", "--backend", "reference"]
    process = subprocess.Popen(
        [*EDGELLAMA, "run", str(model), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(1)
    return process


@pytest.mark.skipif(os.name == "nt", reason="Windows says it in other words")
def test_a_reader_that_leaves_ends_the_run(endless_model: Path) -> None:
    with endless_run(endless_model) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 141


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to whole consoles only")
def test_ctrl_c_ends_a_run_with_130(endless_model: Path) -> None:
    with endless_run(endless_model) as process:
        pressed = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, b"")
        assert time.monotonic() - pressed < 10  # usually 0.2, but the others share the machine
