"""`edgellama chat` through a pipe: answers on standard output, all else on stderr."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from edgellama import Llama, cli
from edgellama.cli.options import SAMPLING

CHAT = [sys.executable, "-m", "edgellama", "chat"]
OPTIONS = ["--backend", "reference", "--chat-format", "alpaca", "--temp", "0"]
Chat = Callable[..., "Done"]


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what the command keeps of conversations lies, in a test of its own."""
    folder = tmp_path / "data"
    monkeypatch.setenv("EDGELLAMA_DATA_DIR", str(folder))
    return folder


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    """chat(INPUT, MODEL, option, ...) -> what the command did with INPUT as its standard input."""

    def chat(text: str, *arguments: object, options: list[str] = OPTIONS) -> Done:
        stdin = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stdin)
        returncode = cli.main(["chat", *options, *map(str, arguments)])
        return Done(returncode, *capsys.readouterr())

    return chat


def test_each_line_of_a_pipe_gets_an_answer(chat: Chat, tiny_llama: Path) -> None:
    done = chat("hello\n\nthe cat\n", tiny_llama, "-n", 5)
    assert (done.returncode, done.stderr) == (0, "")
    answers = done.stdout.splitlines()
    assert len(answers) == 2
    alone = chat("hello", tiny_llama, "-n", 5).stdout.splitlines()
    assert answers[0] == alone[0]


def test_the_second_turn_knows_the_first(chat: Chat, tiny_llama: Path) -> None:
    together = chat("hello\nthe cat\n", tiny_llama, "-n", 5).stdout.splitlines()
    forgotten = chat("hello\n/clear\nthe cat\n", tiny_llama, "-n", 5)
    alone = chat("the cat\n", tiny_llama, "-n", 5).stdout.splitlines()
    assert forgotten.stdout.splitlines()[1:] == alone
    assert together[1:] != alone


def test_the_system_prompt_reaches_the_model(chat: Chat, tiny_llama: Path) -> None:
    plain = chat("hello", tiny_llama, "-n", 8).stdout
    told = chat("hello", tiny_llama, "-n", 8, "--system", "once upon a time").stdout
    command = chat("/system once upon a time\nhello", tiny_llama, "-n", 8)
    assert told != plain
    assert command.stdout == told
    assert "system prompt: once upon a time" in command.stderr


def test_a_message_may_have_several_lines(chat: Chat, tiny_llama: Path) -> None:
    backslash = chat("the\\\ncat\n", tiny_llama, "-n", 8).stdout
    quoted = chat('"""the\ncat"""\n', tiny_llama, "-n", 8).stdout
    unfinished = chat('"""\nthe\ncat', tiny_llama, "-n", 8).stdout
    assert len(backslash.splitlines()) == 1
    assert backslash == quoted == unfinished


def test_commands_are_obeyed_and_unknown_ones_told(chat: Chat, tiny_llama: Path) -> None:
    done = chat("/stats\n/help\n/nonsense\n/bye\nhello\n", tiny_llama)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing was answered yet" in done.stderr
    assert "/system TEXT" in done.stderr
    assert "/nonsense is not a command" in done.stderr


def test_stats_count_the_tokens_that_the_cache_kept(chat: Chat, tiny_llama: Path) -> None:
    done = chat("hello\nthe cat\n", tiny_llama, "-n", 5, "--stats")
    first, second = done.stderr.splitlines()
    assert "answer 5 tokens" in first
    assert "cached" not in first
    assert re.search(r"prompt \d+ tokens \(\+ \d+ cached\) in .* tok/s", second)


def test_an_answer_that_fills_the_context_says_so(chat: Chat, tiny_llama: Path) -> None:
    done = chat("hello\n", tiny_llama, "--ctx", 200)
    assert done.returncode == 0
    assert "the context of 200 tokens is full" in done.stderr


def test_a_message_too_long_for_the_context_is_an_error_with_numbers(
    chat: Chat, tiny_llama: Path
) -> None:
    done = chat("x" * 3000, tiny_llama)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"edgellama: error: the prompt has 3,\d+ tokens, the context holds 512; .*\n", done.stderr
    )


def test_a_base_model_is_refused_in_words(chat: Chat, tiny_llama: Path) -> None:
    done = chat("hello", tiny_llama, options=["--backend", "reference"])
    assert done.returncode == 1
    assert re.fullmatch(
        r"edgellama: error: tiny.gguf has no chat template.*`edgellama run`.*--chat-format .*\n",
        done.stderr,
    )


def test_a_pipe_gets_markdown_as_it_is(chat: Chat, tiny_llama: Path) -> None:
    done = chat("hello\n", tiny_llama, "--regex", r"\*\*bold\*\* and `code`")
    assert done.stdout == "**bold** and `code`\n"


def test_a_setting_says_what_it_does(chat: Chat, tiny_llama: Path) -> None:
    done = chat("/set top-k\n", tiny_llama)
    assert re.fullmatch(r"\[top_k: 40 \(choose among the K .*\)\]\n", done.stderr)


def test_an_unknown_command_is_told_the_closest(chat: Chat, tiny_llama: Path) -> None:
    done = chat("/stat\n", tiny_llama)
    assert done.stderr == "[/stat is not a command; did you mean /stats?]\n"


def test_a_path_is_no_command(chat: Chat, tiny_llama: Path) -> None:
    done = chat("/etc/hosts\n", tiny_llama, "-n", 3)
    assert (done.stderr, len(done.stdout.splitlines())) == ("", 1)


def test_settings_can_be_changed_on_the_way(chat: Chat, tiny_llama: Path) -> None:
    done = chat("/set max-tokens 5\nhello\n/stats\n", tiny_llama)
    assert "max_tokens: 5" in done.stderr
    assert "answer 5 tokens" in done.stderr
    hot = ["--temp", 5, "--seed", 1]
    told = chat("/set seed 1\n/set temp 5\nhello\n", tiny_llama, "-n", 8)
    assert told.stdout == chat("hello\n", tiny_llama, "-n", 8, *hot).stdout


def test_every_sampling_parameter_can_be_set(chat: Chat, tiny_llama: Path) -> None:
    done = chat("/set\n", tiny_llama, "--min-p", 0.5, "--banned-strings", "the end")
    for name in SAMPLING:
        assert re.search(rf"^{name} ", done.stderr, re.MULTILINE), name
    assert re.search(r"^min_p +0.5 ", done.stderr, re.MULTILINE)
    assert re.search(r'^banned_strings +\["the end"\] ', done.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/set temperature 1000", "temperature must be a number from 0 to 100"),
        ("/set top_k few", "top_k takes a whole number, not 'few'"),
        ("/set tempreature 1", "did you mean temperature?"),
        ("/set context-policy forget", "one of error, shift, truncate-oldest"),
        ("/set max_tokens 0", "1 or more, or -1"),
        ("/clear all", "/clear takes nothing behind it"),
        ("/load missing", "there is no chat named 'missing'"),
        ("/save ../elsewhere", "cannot be the name of a chat"),
        ("/read", "name a text file"),
        ("/read missing.txt", "missing.txt"),
        ("/regen", "nothing was answered yet"),
        ("/undo", "nothing was answered yet"),
    ],
)
def test_what_a_command_cannot_do_is_an_error_in_one_line(
    chat: Chat, tiny_llama: Path, line: str, words: str
) -> None:
    done = chat(line, tiny_llama)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"edgellama: error: .*\n", done.stderr)
    assert words in done.stderr


def test_tokens_of_a_text_and_of_the_conversation(chat: Chat, tiny_llama: Path) -> None:
    done = chat("/tokens hello world\n/tokens\n", tiny_llama)
    with Llama(tiny_llama, backend="reference") as llm:
        ids = llm.tokenize("hello world")
    lines = done.stderr.splitlines()
    assert [int(line.split()[0]) for line in lines[:-1]] == ids
    assert re.search(r"prompt has [1-9]\d* tokens .* holds 512 \(\d+% full\)", lines[-1])


def test_a_file_goes_in_front_of_the_next_message(
    chat: Chat, tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("the little cat")
    done = chat(f"/read {tmp_path}/note.txt\nhello\n/show\n", tiny_llama, "-n", 5)
    assert re.search(r"note.txt: \d+ tokens, in front of your next message", done.stderr)
    assert "user:\nthe little cat\n\nhello\n" in done.stderr


def test_a_file_too_big_for_the_context_is_refused_with_numbers(
    chat: Chat, tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "book.txt").write_text("x" * 3000)
    done = chat(f"/read {tmp_path}/book.txt\n", tiny_llama)
    assert done.returncode == 1
    assert re.search(r"book.txt has 3,\d+ tokens, .* makes 3,\d+, .* holds 512;", done.stderr)


def test_undo_takes_the_last_turn_back(chat: Chat, tiny_llama: Path) -> None:
    done = chat("hello\n/undo\nthe cat\n", tiny_llama, "-n", 5)
    alone = chat("the cat\n", tiny_llama, "-n", 5)
    assert "[taken back: hello]" in done.stderr
    assert done.stdout.splitlines()[1:] == alone.stdout.splitlines()


def test_regen_answers_the_same_message_anew(chat: Chat, tiny_llama: Path) -> None:
    # Of so many letters no two answers are alike by chance, and none has a line's end in it.
    hot = ["--temp", 5, "--regex", "[a-z]{60}"]
    done = chat("hello\n/regen\n/show\n", tiny_llama, *hot)
    first, second = done.stdout.splitlines()
    assert first != second
    assert f"user:\nhello\n\nassistant:\n{second}\n" in done.stderr
    assert first not in done.stderr
    fixed = chat("hello\n/regen\n", tiny_llama, *hot, "--seed", 3)
    first, second = fixed.stdout.splitlines()
    assert first == second
    assert "the seed is fixed" in fixed.stderr


def test_a_saved_conversation_goes_on_with_its_settings_and_model(
    chat: Chat, tiny_llama: Path
) -> None:
    options = ["--backend", "reference", "--chat-format", "alpaca"]
    said = "/set temp 0\n/set max_tokens 5\n/system once upon\nhello\n/save cats\n"
    saved = chat(said, tiny_llama, options=options)
    assert "[saved as cats]" in saved.stderr
    resumed = chat("the cat\n", "--resume", "cats", options=options)
    whole = "/system once upon\nhello\nthe cat\n"
    at_once = chat(whole, tiny_llama, "-n", 5)
    assert saved.stdout + resumed.stdout == at_once.stdout
    loaded = chat("/load cats\nthe cat\n", tiny_llama, options=options)
    assert loaded.stdout == resumed.stdout


def test_an_option_given_wins_over_a_saved_one(chat: Chat, tiny_llama: Path) -> None:
    chat("/set max_tokens 5\nhello\n/save cats\n", tiny_llama)
    done = chat("hello\n/stats\n", "--resume", "cats", "-n", 3)
    assert "answer 3 tokens" in done.stderr


def test_a_pipe_keeps_nothing_unless_it_resumes(
    chat: Chat, tiny_llama: Path, data_folder: Path
) -> None:
    chat("hello\n", tiny_llama, "-n", 5)
    assert not data_folder.exists()
    chat("hello\n/save cats\n", tiny_llama, "-n", 5)
    chat("the cat\n", "--resume", "cats", "-n", 5)
    (last,) = (data_folder / "chats").glob("last-*.json")
    assert len(json.loads(last.read_text())["messages"]) == 4
    done = chat("/show\n", "--resume")
    assert done.stderr.count("assistant:") == 2


def test_the_listing_shows_what_was_saved(chat: Chat, tiny_llama: Path) -> None:
    chat("hello there\n/save cats\n", tiny_llama, "-n", 5)
    done = chat("/load\n", tiny_llama)
    assert re.fullmatch(r"cats +\d{4}-\d\d-\d\d \d\d:\d\d +2 messages  hello there\n", done.stderr)


def test_a_context_policy_makes_room_and_says_so(chat: Chat, tiny_llama: Path) -> None:
    said = "the cat and the cat\n" * 6
    refused = chat(said, tiny_llama, "--ctx", 200, "-n", 30)
    assert refused.returncode == 1
    done = chat(said, tiny_llama, "--ctx", 200, "-n", 30, "--context-policy", "truncate-oldest")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 6)
    assert "[to make room, the oldest 2 messages were left out]" in done.stderr


def test_a_pipe_does_without_the_libraries_of_the_terminal(tiny_llama: Path) -> None:
    code = (
        "import sys; from edgellama.cli import main;"
        " main(sys.argv[1:]); print({'rich', 'prompt_toolkit'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "chat", *OPTIONS, "-n", "3", str(tiny_llama)],
        input="hello\n/help\n",
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.stdout.splitlines()[1:] == ["set()"], done.stderr


def test_a_reader_that_leaves_ends_the_conversation(tiny_llama: Path) -> None:
    with subprocess.Popen(
        [*CHAT, *OPTIONS, "--max-tokens", "200", str(tiny_llama)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(b"hello\n" * 3)
        process.stdin.close()
        process.stdout.read(1)
        process.stdout.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (141, b"")


def test_a_closed_standard_output_is_no_fault(tiny_llama: Path) -> None:
    command = [sys.executable, "-c", "import os, sys; os.close(1); os.execv(sys.executable,"
               " [sys.executable, *sys.argv[1:]])"]  # fmt: skip
    done = subprocess.run(
        [*command, "-m", "edgellama", "chat", *OPTIONS, "-n", "3", str(tiny_llama)],
        input=b"hello\n",
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_locale_is_needed(tiny_llama: Path) -> None:
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [*CHAT, *OPTIONS, "-n", "20", str(tiny_llama)],
        input="Grüße 日本\n/show\n".encode(),
        capture_output=True,
        timeout=60,
        env=os.environ | bare,
    )
    assert done.returncode == 0
    assert "user:\nGrüße 日本\n" in done.stderr.decode()
