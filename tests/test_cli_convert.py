"""`edgellama convert` and `edgellama inspect`, as typed."""

import io
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import unfinished
from gguf import GGUFReader
from sparse_llama import write_sparse_llama

from edgellama.cli import main

SPARSE_FILES = sys.platform.startswith("linux")


def write_hf_folder(folder: Path, *, layers: int = 1, dim: int = 64, vocab_size: int = 300) -> Path:
    """A Hugging Face folder whose weights are a hole in the file: zeros that take no disk."""
    from sentencepiece import SentencePieceTrainer

    tokenizer = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat and the dog and the bird"] * 20),
        model_writer=tokenizer,
        model_type="bpe",
        vocab_size=275,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    write_sparse_llama(
        folder,
        tokenizer.getvalue(),
        n_layers=layers,
        dim=dim,
        hidden_dim=3 * dim,
        vocab_size=vocab_size,
        n_heads=4,
        n_kv_heads=2,
    )
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_hf_folder(tmp_path / "hf")


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_convert_says_what_it_made(folder, tmp_path, capsys):
    out = tmp_path / "out.gguf"
    assert run("convert", folder, "-o", out, "--type", "q4_0", "--name", "mine") == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{out}: Llama 2, Q4_0, 11 tensors, 48.82 kB, ")
    assert said.err.startswith("note: output.weight equals token_embd.weight and is left out\n")
    assert GGUFReader(out).get_field("general.name").contents() == "mine"


def test_quiet_says_nothing(folder, tmp_path, capsys):
    assert run("convert", folder, "-o", tmp_path / "out.gguf", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_a_dry_run_writes_nothing_and_tells_all(folder, tmp_path, capsys):
    assert run("convert", folder, "--dry-run", "--type", "q4_0", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "Hugging Face folder, LlamaForCausalLM"
    assert "config.json" in told["recognised_by"]
    assert told["metadata"]["llama.embedding_length"] == 64
    by_name = {tensor["name"]: tensor for tensor in told["tensors"]}
    assert by_name["blk.0.attn_k.weight"] == {
        "name": "blk.0.attn_k.weight",
        "shape": [32, 64],
        "source": "model.layers.0.self_attn.k_proj.weight",
        "files": [str(folder / "model.safetensors")],
        "stored_type": "BF16",
        "stored_bytes": 32 * 64 * 2,
        "type": "Q4_0",
        "bytes": 32 * 64 // 32 * 18,
    }
    assert told["bytes"] == sum(tensor["bytes"] for tensor in told["tensors"])
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.skipif(not SPARSE_FILES, reason="needs a file system with holes in files")
def test_a_dry_run_of_a_70b_reads_no_weights(tmp_path, capsys):
    folder = write_hf_folder(tmp_path / "hf", layers=80, dim=8192)
    assert (folder / "model.safetensors").stat().st_size > 80e9
    start = time.process_time()
    assert run("convert", folder, "--dry-run", "--type", "q4_0") == 0
    # Reading 80 GB takes longer even where they are a hole.
    assert time.process_time() - start < 10
    assert "723 tensors" in capsys.readouterr().out


def test_inspect_shows_a_folder_and_a_file(folder, tmp_path, capsys):
    assert run("inspect", folder) == 0
    assert "model.layers.0.mlp.up_proj.weight" in capsys.readouterr().out
    run("convert", folder, "-o", tmp_path / "out.gguf", "--quiet")
    assert run("inspect", tmp_path / "out.gguf") == 0
    shown = capsys.readouterr().out
    assert "GGUF file" in shown
    assert "blk.0.ffn_up.weight" in shown
    assert run("inspect", tmp_path / "out.gguf", "--json") == 0
    assert json.loads(capsys.readouterr().out)["metadata"]["general.file_type"] == 7


def fail(capsys, *arguments: str | Path) -> str:
    """The one line on stderr with which a command fails."""
    assert run(*arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("edgellama: error: ")
    assert said.err.count("\n") == 1
    return said.err


def hostile_pickle(path: Path) -> None:
    """A legacy .pth whose pickle calls os.system."""
    path.write_bytes(
        bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
        + b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00truetR."
    )


def spoil(folder: Path, fault: str) -> Path:
    """A folder or file with one thing wrong."""
    weights = folder / "model.safetensors"
    match fault:
        case "truncated weights":
            os.truncate(weights, weights.stat().st_size - 1)
        case "no weights":
            weights.unlink()
        case "wrong config":
            (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        case "no tokenizer":
            (folder / "tokenizer.model").unlink()
        case "bad tokenizer":
            (folder / "tokenizer.model").write_bytes(b"\0" * 100)
        case "hostile pickle":
            weights.unlink()
            hostile_pickle(folder / "pytorch_model.bin")
        case "empty folder":
            for path in folder.iterdir():
                path.unlink()
        case "nothing there":
            return folder / "nothing"
        case "a file of something else":
            return folder / "config.json"
        case "a damaged GGUF file":
            (folder / "model.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 40)
            return folder / "model.gguf"
    return folder


FAULTS = (
    "truncated weights",
    "no weights",
    "wrong config",
    "no tokenizer",
    "bad tokenizer",
    "hostile pickle",
    "empty folder",
    "nothing there",
    "a file of something else",
    "a damaged GGUF file",
)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_line_and_no_file(folder, tmp_path, capsys, fault):
    source = spoil(folder, fault)
    fail(capsys, "convert", source, "-o", tmp_path / "out.gguf")
    assert not list(tmp_path.glob("out*"))


def test_an_output_must_be_named(folder, capsys):
    assert "-o OUT.gguf" in fail(capsys, "convert", folder)


def test_the_output_may_not_be_a_file_of_the_source(folder, capsys):
    before = (folder / "config.json").read_bytes()
    fail(capsys, "convert", folder, "-o", folder / "config.json")
    assert (folder / "config.json").read_bytes() == before


@pytest.mark.parametrize("option", ["--rope-theta", "--rope-factor", "--context-length"])
def test_overrides_must_be_positive(folder, tmp_path, capsys, option):
    assert option in fail(capsys, "convert", folder, "-o", tmp_path / "out.gguf", option, "0")


def test_an_unknown_type_is_a_usage_error(folder):
    with pytest.raises(SystemExit) as exited:
        run("convert", folder, "-o", "out.gguf", "--type", "q9")
    assert exited.value.code == 2


@pytest.mark.slow
@pytest.mark.skipif(not SPARSE_FILES, reason="needs a file system with holes in files")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_ended_midway_it_leaves_what_was_there(tmp_path, end):
    folder = write_hf_folder(tmp_path / "hf", layers=16, dim=1024)
    out = tmp_path / "out.gguf"
    out.write_bytes(b"what was there before")
    process = unfinished.begin(tmp_path, "convert", folder, "-o", out, "--type", "q8_0")
    process.send_signal(end)
    _, said = process.communicate(timeout=60)
    assert out.read_bytes() == b"what was there before"
    assert b"Traceback" not in said
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert [path.name for path in tmp_path.glob("out*")] == ["out.gguf"]
    assert run("convert", folder, "-o", out, "--quiet") == 0  # and sweeps up
    assert [path.name for path in tmp_path.glob("*out*")] == ["out.gguf"]
