"""`edgellama bench` and `edgellama warmup`."""

import csv
import io
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pytest

from edgellama import cli
from edgellama.backends import Backend, Batch
from edgellama.cli import bench
from edgellama.gguf import GGUFFile
from edgellama.quant import cache_folder
from edgellama.random_llama import Shape

QUICK = ["-p", "8", "-n", "4", "-r", "2"]
TINY = Shape(64, 2, 4, 2, 16, 96, tied=True, rope_factor=8, vocab_size=1024)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a command line, in this process."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as leaving:  # argparse
        status = int(leaving.code or 0)
    return status, *capsys.readouterr()


@pytest.mark.parametrize("command", ["bench", "warmup"])
def test_help_shows_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, _ = call(capsys, command, "--help")
    assert status == 0
    assert f"  edgellama {command}" in out


def test_every_combination_is_a_row(capsys: pytest.CaptureFixture[str], tiny_llama: Path) -> None:
    options = ["-p", "8,5", "-n", "4", "-d", "0,16", "-t", "1,2", "-r", "3", "-o", "json"]
    status, out, err = call(capsys, "bench", tiny_llama, *options)
    rows = json.loads(out)
    assert (status, err) == (0, "")
    tests = ["pp8", "pp5", "tg4", "pp8 @ d16", "pp5 @ d16", "tg4 @ d16"]
    assert [(row["n_threads"], row["test"]) for row in rows] == [
        (n, test) for n in (1, 2) for test in tests
    ]
    for row in rows:
        assert len(row["samples_ts"]) == 3
        assert row["avg_ts"] == statistics.mean(row["samples_ts"]) > 0
        assert row["stddev_ts"] == statistics.stdev(row["samples_ts"])
        assert row["peak_rss"] > 10 * 2**20  # no Python is smaller


def test_the_model_is_described_by_its_file(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path
) -> None:
    [row, _] = json.loads(call(capsys, "bench", tiny_llama, *QUICK, "-o", "json")[1])
    with GGUFFile(tiny_llama) as file:
        assert row["model_size"] == sum(tensor.n_bytes for tensor in file.tensors.values())
    assert row["model_n_params"] * 4 == row["model_size"]  # all F32
    assert (row["model_filename"], row["model_type"]) == ("tiny.gguf", "tiny F32")


def test_the_table_is_markdown(capsys: pytest.CaptureFixture[str], tiny_llama: Path) -> None:
    status, out, err = call(capsys, "bench", tiny_llama, *QUICK, "-t", "1")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert len({len(line) for line in lines}) == 1  # columns stand below each other
    head, rule, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    assert head == ["model", "size", "params", "backend", "threads", "test", "t/s", "peak RSS"]
    assert all(set(cell) <= {"-", ":"} for cell in rule)
    assert [row[4:6] for row in rows] == [["1", "pp8"], ["1", "tg4"]]
    assert all(float(row[6].split(" ± ")[0].replace(",", "")) > 0 for row in rows)


def test_csv_and_json_lines_say_the_same(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path
) -> None:
    written = call(capsys, "bench", tiny_llama, *QUICK, "-o", "csv")[1]
    rows = list(csv.DictReader(io.StringIO(written)))
    lines = call(capsys, "bench", tiny_llama, *QUICK, "-o", "jsonl")[1].splitlines()
    for row, line in zip(rows, map(json.loads, lines), strict=True):
        assert set(line) - set(row) == {"samples_ts"}
        assert all(str(line[key]) == row[key] for key in ("test", "n_threads", "model_size"))


def test_a_shape_needs_no_file_and_leaves_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(bench.SHAPES, "llama-3.2-1b", TINY)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    # 64 columns do not divide by the blocks of Q6_K: the embedding, most of the bytes, is Q8_0
    for name, formats in (("Q4_0", "Q8_0+Q4_0"), ("Q8_0", "Q8_0"), ("BF16", "BF16")):
        options = ["--shape", "llama-3.2-1b", "--type", name, *QUICK, "-o", "json"]
        status, out, err = call(capsys, "bench", *options)
        assert (status, err) == (0, "")
        assert json.loads(out)[0]["model_type"] == f"llama-3.2-1b, random {formats}"
        assert list(tmp_path.iterdir()) == []


def test_the_output_matrix_of_a_shape_can_be_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench.SHAPES, "llama-3.2-1b", TINY)
    options = ["--shape", "llama-3.2-1b", "--output-type", "q4_0", *QUICK, "-o", "json"]
    [row, _] = json.loads(call(capsys, "bench", *options)[1])
    assert row["model_type"] == "llama-3.2-1b, random Q4_0"


def test_tokens_stand_where_the_depth_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_llama: Path
) -> None:
    """A later depth keeps what an earlier one put into the context."""
    seen: list[tuple[int, int]] = []
    load = bench.load_backend

    def watched(*args: Any, **kwargs: Any) -> Backend:
        backend = load(*args, **kwargs)
        forward = backend.forward

        def record(batch: Batch) -> Any:
            seen.append((int(batch.positions[0]), len(batch)))
            return forward(batch)

        monkeypatch.setattr(backend, "forward", record)
        return backend

    monkeypatch.setattr(bench, "load_backend", watched)
    options = ["-p", "4", "-n", "2", "-d", "0,8,20", "-r", "1", "-t", "1", "-o", "json"]
    assert call(capsys, "bench", tiny_llama, *options)[0] == 0
    expected = []
    for filled, depth in ((0, 0), (0, 8), (8, 20)):
        expected += [(filled, depth - filled)] if depth > filled else []
        expected += [(depth, 4)] * 2 + [(depth, 1), (depth + 1, 1)] * 2
    assert seen == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shape", "llama-3.2-1b"], "name a MODEL or a --shape, not both"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["-d", "512"], "1,024 tokens are asked for; the model reads 512 at most"),
        (["--backend", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_measured_is_an_error_in_one_line(
    capsys: pytest.CaptureFixture[str], tiny_llama: Path, options: list[str], words: str
) -> None:
    status, out, err = call(capsys, "bench", tiny_llama, *options)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert words in err


@pytest.mark.parametrize("options", ["-t 0", "-p 1,-2", "-n many", "-r 0", "-o xml", "--type q9"])
def test_senseless_options_are_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], options: str
) -> None:
    assert call(capsys, "bench", *options.split())[0] == 2


def test_warmup_compiles_once_and_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    if cache_folder.CACHE_FOLDER is None:
        pytest.skip("kernels cannot be kept here")
    assert call(capsys, "warmup", "--formats", "f32")[0] == 0
    status, out, err = call(capsys, "warmup", "--formats", "F32")
    assert (status, err) == (0, "")
    assert ", 0 of them compiled in " in out
    assert str(cache_folder.CACHE_FOLDER) in out


def test_warmup_without_a_folder_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_folder, "CACHE_FOLDER", None)
    monkeypatch.setattr(cache_folder, "CACHE_REFUSAL", "/x belongs to another user")
    status, out, err = call(capsys, "warmup")
    assert (status, out) == (1, "")
    assert "nothing can be kept: /x belongs to another user; set EDGELLAMA_CACHE_DIR" in err


def test_doctor_says_how_many_threads_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "doctor")
    [line] = [line for line in out.splitlines() if line.startswith("threads ")]
    assert line.split()[1].isdigit()
    assert "(" in line
