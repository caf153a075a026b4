"""`edgellama eval`: the table, the JSON, the plot, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgellama import cli

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, write_tiny_llama: Callable[..., Path], tiny_text: str
) -> Path:
    """full.gguf (F32), half.gguf, q4.gguf of the same weights, and text.txt."""
    path = tmp_path_factory.mktemp("eval")
    for name, format in (("full", "F32"), ("half", "F16"), ("q4", "Q4_0")):
        write_tiny_llama(path / f"{name}.gguf", format=format)
    (path / "text.txt").write_text(tiny_text, encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    return cli.main(["eval", *map(str, arguments), "--threads", "1"])


def test_a_model_alone_gets_its_perplexity(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder / "full.gguf", "--text", folder / "text.txt", "--ctx", 64, "--chunks", 3) == 0
    out = capsys.readouterr().out
    assert "3 chunks of 64 tokens, 93 predictions" in out
    header, row = out.splitlines()[-2:]
    assert header.split() == ["model", "bits/weight", "perplexity"]
    assert re.fullmatch(r"\S*full\.gguf\s+32\.000\s+[\d.]+ ± [\d.]+", row)


def test_several_models_are_compared_with_the_reference(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [folder / "half.gguf", folder / "q4.gguf"]
    assert run(*models, "--text", folder / "text.txt", "--reference", folder / "full.gguf",
               "--ctx", 64, "--chunks", 4) == 0  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split()[0]).name for line in lines[-3:]] == [
        "full.gguf", "half.gguf", "q4.gguf",
    ]  # fmt: skip
    assert lines[-4].split()[-2:] == ["same", "top"]
    assert re.search(r"± [\d.]+ %$", lines[-1])


def test_json_holds_every_figure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [folder / "half.gguf", folder / "q4.gguf"]
    arguments = ["--text", folder / "text.txt", "--reference", folder / "full.gguf", "--ctx", 64]
    assert run(*models, *arguments, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n_predictions"] == told["n_chunks"] * 31
    assert told["reference"]["divergence"] is None
    half, q4 = told["models"]
    assert half["bits_per_weight"] == pytest.approx(16, abs=0.3)  # the norms are F32
    figures = q4["divergence"]
    assert half["divergence"]["mean"]["value"] < figures["mean"]["value"] / 100
    order = ("percentile_90", "percentile_99", "percentile_99_9", "maximum")
    assert [figures[key] for key in order] == sorted(figures[key] for key in order)
    assert 0 < figures["same_top"]["value"] < 1


def test_the_plot_has_a_point_and_a_name_for_each_model(folder: Path, tmp_path: Path) -> None:
    models = [folder / "half.gguf", folder / "q4.gguf"]
    plot = tmp_path / "loss.svg"
    plot.write_text("an older one", encoding="utf-8")
    assert run(*models, "--text", folder / "text.txt", "--reference", folder / "full.gguf",
               "--ctx", 64, "--chunks", 4, "--plot", plot) == 0  # fmt: skip
    root = ElementTree.parse(plot).getroot()
    q4, half = (
        (float(circle.get("cx", "")), float(circle.get("cy", "")))
        for circle in root.iter(f"{SVG}circle")
    )
    # Drawn by size: q4 is smaller, to the left, and loses more, higher up.
    assert q4[0] < half[0]
    assert q4[1] < half[1]
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"half", "q4", "bits per weight", "mean KL divergence, nats"} <= set(words)
    assert [path.name for path in tmp_path.iterdir()] == ["loss.svg"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["full.gguf", "--text", "missing.txt"], "missing.txt: No such file"),
        (["missing.gguf", "--text", "text.txt"], "missing.gguf: cannot be opened"),
        (["full.gguf", "full.gguf", "--text", "text.txt"], "named twice"),
        (["full.gguf", "--text", "text.txt", "--ctx", "4096"], "reads at most 512 tokens"),
        (["full.gguf", "--text", "full.gguf"], "is not UTF-8 text"),
        (["full.gguf", "--text", "short.txt"], "take a longer text"),
        (["full.gguf", "bpe.gguf", "--text", "text.txt"], "another vocabulary than full.gguf"),
        (["q4.gguf", "--text", "text.txt", "--reference", "bpe.gguf"], "another vocabulary"),
        (["full.gguf", "--text", "text.txt", "--plot", "q4.gguf"], "must end with .svg"),
        (["full.gguf", "--text", "text.txt", "--plot", "no/x.svg"], "folder no does not exist"),
        (["full.gguf", "--text", "text.txt", "--chunks", "0"], "number of chunks is 0"),
        (["full.gguf", "--text", "text.txt", "--backend", "gpu"], "backend 'gpu' is unknown"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    folder: Path,
    write_tiny_llama: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(folder)
    write_tiny_llama("bpe.gguf", tokenizer="bpe", n_layers=1)
    Path("short.txt").write_text("hello", encoding="utf-8")
    assert cli.main(["eval", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("edgellama: error: ")
    assert err.count("\n") == 1
    assert words in err
