"""`edgellama quantize --calibrate`, `--size` and `--max-kl`, as typed."""

from pathlib import Path
from threading import current_thread, main_thread

import numpy as np
import pytest

from edgellama.backends import Batch, load_backend
from edgellama.cli import main
from edgellama.compensation import Compensation
from edgellama.config import ModelConfig
from edgellama.gguf import GGUFFile
from edgellama.text_chunks import cut_text
from edgellama.tokenizer import load_tokenizer
from edgellama.weights import load_weights


@pytest.fixture(scope="module")
def model(write_tiny_llama, tmp_path_factory) -> Path:
    """In F32, its output tied; columns divide by 32 and not by 256."""
    return write_tiny_llama(tmp_path_factory.mktemp("calibrate") / "f32.gguf")


@pytest.fixture(scope="module")
def text(tiny_text, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(tiny_text, encoding="utf-8")
    return path


def quantize(*arguments: str | Path) -> int:
    return main(["quantize", *map(str, arguments), "--ctx", "64"])


def fail(capsys, *arguments: str | Path) -> str:
    assert quantize(*arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("edgellama: error: ")
    assert said.err.count("\n") == 1
    return said.err


def types(path: Path) -> dict[str, str]:
    with GGUFFile(path) as file:
        return {name: info.format.name for name, info in file.tensors.items()}


def divergence(path: Path, original: Path, chunks: np.ndarray) -> float:
    """Mean KL divergence, by the reference."""
    found = []
    for file in (original, path):
        with GGUFFile(file) as gguf:
            config = ModelConfig.from_gguf(gguf)
            backend = load_backend("reference", config, load_weights(gguf, config), n_ctx=256)
            logits = []
            for chunk in chunks:
                logits.append(backend.forward(Batch.of(chunk, wanted="all")).astype(np.float64))
                backend.drop(0)
        z = np.stack(logits)
        found.append(z - np.log(np.exp(z).sum(axis=2, keepdims=True)))
    return float((np.exp(found[0]) * (found[0] - found[1])).sum(axis=2).mean())


def chunks_of(text: Path, model: Path) -> np.ndarray:
    with GGUFFile(model) as file:
        return cut_text(load_tokenizer(file.metadata), text.read_text(encoding="utf-8"), 64)


def test_a_calibrated_file_has_the_same_size_and_loses_less(model, text, tmp_path, capsys):
    plain, calibrated = tmp_path / "plain.gguf", tmp_path / "calibrated.gguf"
    options = ("--type", "Q4_0", "--pure")
    assert quantize(model, plain, *options) == 0
    assert quantize(model, calibrated, *options, "--calibrate", text, "--chunks", "12") == 0
    assert "calibrated.gguf: tiny, Q4_0, 20 tensors" in capsys.readouterr().out
    assert types(calibrated) == types(plain)
    assert calibrated.stat().st_size == plain.stat().st_size
    other = chunks_of(text, model)[12:]
    assert divergence(calibrated, model, other) < 0.7 * divergence(plain, model, other)


def test_a_size_is_kept_and_filled(model, text, tmp_path, capsys):
    out = tmp_path / "out.gguf"
    assert quantize(model, out, "--size", "100k", "--calibrate", text) == 0
    said = capsys.readouterr().out
    assert said.startswith("tensor ")
    for name, type in types(out).items():
        if name.startswith("blk") and "norm" not in name:
            assert any(line.split()[:2] == [name, type] for line in said.splitlines()), name
    assert 95_000 < out.stat().st_size <= 100_000
    assert len(set(types(out).values())) > 2


def test_a_size_gives_the_same_file_again(model, text, tmp_path):
    files = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for out in files:
        assert quantize(model, out, "--size", "100k", "--calibrate", text) == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_loss_is_kept(model, text, tmp_path, capsys):
    apart = chunks_of(text, model)[14:16]
    sizes = []
    for wish in (0.003, 0.0003):
        out = tmp_path / f"{wish}.gguf"
        assert quantize(model, out, "--max-kl", wish, "--calibrate", text, "--chunks", "16") == 0
        assert "a mean KL divergence of " in capsys.readouterr().out
        assert divergence(out, model, apart) < wish
        sizes.append(out.stat().st_size)
    assert sizes[0] < sizes[1]


def test_named_types_are_kept_whatever_the_size(model, text, tmp_path):
    out = tmp_path / "out.gguf"
    options = ("--tensor-type", "attn_v=Q8_0", "--embedding-type", "Q4_0")
    assert quantize(model, out, "--size", "100k", "--calibrate", text, *options) == 0
    found = types(out)
    assert found["blk.0.attn_v.weight"] == found["blk.1.attn_v.weight"] == "Q8_0"
    assert found["token_embd.weight"] == "Q4_0"


def test_a_dry_run_shows_the_choice_and_writes_nothing(model, text, tmp_path, capsys):
    out = tmp_path / "out.gguf"
    assert quantize(model, out, "--size", "100k", "--calibrate", text, "--dry-run") == 0
    assert "bits a weight, a file of" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_matrices_are_made_by_the_thread_that_hears_of_ctrl_c(model, text, tmp_path, monkeypatch):
    threads = []
    packed = Compensation.packed

    def observed(self, name):
        threads.append(current_thread())
        return packed(self, name)

    monkeypatch.setattr(Compensation, "packed", observed)
    assert quantize(model, tmp_path / "out.gguf", "--calibrate", text, "--chunks", "2") == 0
    assert set(threads) == {main_thread()}


def test_the_text_is_never_overwritten(model, text, capsys):
    before = text.read_bytes()
    assert "is what is being read" in fail(capsys, model, text, "--calibrate", text)
    assert text.read_bytes() == before


def test_a_target_that_cannot_be_is_told_before_the_text_is_read(model, text, tmp_path, capsys):
    out = tmp_path / "nowhere" / "out.gguf"
    assert "does not exist" in fail(capsys, model, out, "--size", "1k", "--calibrate", text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "1G"], "name it with --calibrate"),
        (["--max-kl", "0.1"], "name it with --calibrate"),
        (["--calibrate", "TEXT", "--size", "9k"], "bytes are too few"),
        (["--calibrate", "TEXT", "--size", "1G", "--max-kl", "1"], "two wishes"),
        (["--calibrate", "TEXT", "--max-kl", "-1"], "must be positive"),
        (["--calibrate", "TEXT", "--imatrix", "i.gguf"], "i.gguf"),
        (["--calibrate", "no.txt"], "no.txt: No such file"),
        (["--calibrate", "TEXT", "--chunks", "2", "--max-kl", "1"], "--max-kl needs 8"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(model, text, tmp_path, capsys, options, words):
    filled = [str(text) if option == "TEXT" else option for option in options]
    assert words in fail(capsys, model, tmp_path / "out.gguf", *filled)
    assert list(tmp_path.iterdir()) == []
