"""Options that commands share: every sampling parameter, sizes, and the form of an answer."""

import argparse
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from edgellama import cli
from edgellama.cli import options
from edgellama.cli.loading import add_speed_options, read_size
from edgellama.errors import InvalidRequest
from edgellama.prefix_store import DEFAULT_BYTES
from edgellama.sampling import SamplingParams


def sampling_from(*arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    options.add_sampling_options(parser)
    return dict(options.sampling_options(parser.parse_args(arguments)))


def test_without_flags_everything_is_at_its_default() -> None:
    assert SamplingParams(**sampling_from()) == SamplingParams()


OTHER = {float: "0.25", int: "2", tuple: '["a", "b"]', dict: "7=-1.5,9=false"}
VALUES = {float: 0.25, int: 2, tuple: ("a", "b"), dict: {7: -1.5, 9: False}}


@pytest.mark.parametrize("option", fields(SamplingParams), ids=lambda option: option.name)
def test_every_sampling_parameter_has_a_flag(option: object) -> None:
    name, kind = option.name, option.metadata["kind"]
    flag = "--temp" if name == "temperature" else "--" + name.replace("_", "-")
    text, value = OTHER[kind], VALUES[kind]
    if name == "samplers":
        text, value = "top_k;temperature", ("top_k", "temperature")
    if name == "dry_base":
        text, value = "1.5", 1.5
    assert sampling_from(flag, text)[name] == value


@pytest.mark.parametrize("option", fields(SamplingParams), ids=lambda option: option.name)
def test_what_is_shown_can_be_read_again(option: object) -> None:
    text = options.sampling_text(option.default)
    if text != "none":
        assert options.read_sampling(option.name, text) == option.default


def test_one_banned_string_needs_no_brackets() -> None:
    assert sampling_from("--banned-strings", "the end")["banned_strings"] == ("the end",)


@pytest.mark.parametrize(
    ("name", "text"),
    [("top_k", "few"), ("min_p", ""), ("logit_bias", "7"), ("banned_strings", "[1")],
)
def test_what_is_no_value_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} takes "):
        options.read_sampling(name, text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("123", 123), ("4G", 4 << 30), ("1.5g", 3 << 29), ("500MB", 500 << 20),
     ("2GiB", 2 << 30), ("64k", 64 << 10)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "much", "1X", "nan", "inf"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no size"):
        read_size(text)


def run(
    capsys: pytest.CaptureFixture[str], model: Path, *arguments: object
) -> tuple[int, str, str]:
    common = ["--backend", "reference", "--temp", "0", "-p", "the cat"]
    status = cli.main(["run", str(model), *common, *map(str, arguments)])
    return status, *capsys.readouterr()


def test_an_answer_has_the_form_it_was_given(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, tmp_path: Path
) -> None:
    assert re.fullmatch("[0-9]{3}\n", run(capsys, tiny_llama, "--regex", "[0-9]{3}")[1])
    (tmp_path / "a.gbnf").write_text('root ::= "yes" | "no"')
    assert run(capsys, tiny_llama, "--grammar", tmp_path / "a.gbnf")[1] in ("yes\n", "no\n")
    (tmp_path / "a.lark").write_text('start: "left" | "right"')
    assert run(capsys, tiny_llama, "--grammar", tmp_path / "a.lark")[1] in ("left\n", "right\n")
    schema = {"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(schema))
    for source in (json.dumps(schema), tmp_path / "a.json"):
        _, out, _ = run(capsys, tiny_llama, "--json-schema", source, "-n", "500")
        assert json.loads(out) in ({"n": True}, {"n": False})


def test_a_form_that_could_not_be_finished_is_told(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path
) -> None:
    _, _, err = run(capsys, tiny_llama, "--regex", "[0-9]{30}", "-n", 5)
    assert err == "[stopped after 5 tokens, before the form was whole; see -n]\n"


def test_a_form_that_was_ended_for_want_of_tokens_is_told(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path
) -> None:
    schema = '{"type": "string"}'
    for policy in ("error", "shift"):
        _, out, err = run(
            capsys, tiny_llama, "--json-schema", schema, "-n", 30, "--context-policy", policy
        )
        assert isinstance(json.loads(out), str)
        assert re.fullmatch(
            r"\[stopped after \d+ tokens, ended early, the form being whole; see -n\]\n", err
        )
    _, out, err = run(capsys, tiny_llama, "--json-schema", schema, "-n", -1)
    assert isinstance(json.loads(out), str)
    assert re.fullmatch(r"\[stopped: the context of \d+ tokens is full\]\n", err)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--json-schema", '{"type":'], "--json-schema is not JSON: "),
        (["--json-schema", '{"likes": "cats"}'], "likes"),
        (["--json-schema", "missing.json"], "missing.json"),
        (["--grammar", "missing.gbnf"], "missing.gbnf"),
        (["--regex", "("], "regex"),
    ],
)
def test_a_form_that_cannot_be_kept_is_an_error_in_one_line(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, arguments: list[str], words: str
) -> None:
    status, out, err = run(capsys, tiny_llama, *arguments)
    assert (status, out) == (1, "")
    assert re.fullmatch(r"edgellama: error: .*\n", err)
    assert words in err


def test_only_one_form_may_be_given(capsys: pytest.CaptureFixture[str], tiny_llama: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(capsys, tiny_llama, "--regex", "a", "--json-schema", "{}")


def test_prefixes_take_what_the_library_lets_them_take_unless_told_otherwise() -> None:
    parser = argparse.ArgumentParser()
    add_speed_options(parser)
    assert parser.parse_args([]).prefix_cache == DEFAULT_BYTES
