"""`edgellama quantize`, as typed."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import unfinished

from edgellama.cli import main
from edgellama.converters import MIXES
from edgellama.gguf import GGUFFile, TensorToWrite, write_gguf
from edgellama.gguf_imatrix import ImportanceMatrix, write_imatrix
from edgellama.quant import find_format


@pytest.fixture(scope="module")
def f16_llama(write_tiny_llama, tmp_path_factory) -> Path:
    """A tiny model in F16, its output apart; to be read and not changed."""
    path = tmp_path_factory.mktemp("f16") / "f16.gguf"
    shape = {"dim": 256, "hidden_dim": 512, "n_heads": 8, "head_dim": 32, "n_layers": 8}
    return write_tiny_llama(path, format="F16", tied=False, **shape)


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def fail(capsys, *arguments: str | Path) -> str:
    """The one line on stderr with which a command fails."""
    assert run(*arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("edgellama: error: ")
    assert said.err.count("\n") == 1
    return said.err


def types(path: Path) -> dict[str, str]:
    with GGUFFile(path) as file:
        return {name: info.format.name for name, info in file.tensors.items()}


def test_it_says_what_it_made(f16_llama, tmp_path, capsys):
    out = tmp_path / "out.gguf"
    assert run("quantize", f16_llama, out, "--type", "q5_0") == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{out}: tiny, Q5_0, 75 tensors, 3.24 MB, 5.55 bits a weight, in ")
    assert said.err == ""
    with GGUFFile(out) as file:
        assert file.metadata["general.file_type"] == 8
        assert file.metadata["general.quantization_version"] == 2
    made = types(out)
    assert (made["blk.0.attn_q.weight"], made["output.weight"]) == ("Q5_0", "Q6_K")
    assert made["blk.7.ffn_norm.weight"] == "F32"


@pytest.mark.parametrize(
    "options",
    [
        *(["--type", mix] for mix in MIXES if mix != "Q2_K_S"),
        ["--type", "Q4_0", "--pure"],
        ["--type", "Q5_1", "--tensor-type", "ffn=F16", "--output-type", "F32"],
    ],
    ids=" ".join,
)
def test_a_dry_run_tells_the_size_of_the_file_to_the_byte(f16_llama, tmp_path, capsys, options):
    assert run("quantize", f16_llama, *options, "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert not list(tmp_path.iterdir())
    out = tmp_path / "out.gguf"
    assert run("quantize", f16_llama, out, *options, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert told["file_bytes"] == out.stat().st_size
    assert {tensor["name"]: tensor["type"] for tensor in told["tensors"]} == types(out)


def test_a_dry_run_shows_equal_tensors_in_one_row(f16_llama, capsys):
    assert run("quantize", f16_llama, "--dry-run", "--type", "Q8_0", "--tensor-type",
               r"blk\.[0125]\.attn_v=F16") == 0  # fmt: skip
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in row if cell] for row in rows]
    assert ["attn_v", "0-2 5", "64 x 256", "F16", "F16", "131,072"] in cells
    assert ["attn_v", "3-4 6-7", "64 x 256", "F16", "Q8_0", "69,632"] in cells
    assert cells[-1][0].startswith("Q8_0: 75 tensors, ")


def test_named_types_go_before_the_rules(f16_llama, tmp_path):
    out = tmp_path / "out.gguf"
    options = ["--output-type", "q8_0", "--embedding-type", "bf16"]
    options += ["--tensor-type", r"\.[01]\.ffn_=Q5_1", "--tensor-type", "ffn_=Q4_1"]
    assert run("quantize", f16_llama, out, "--type", "Q4_0", *options, "--quiet") == 0
    made = types(out)
    assert made["output.weight"] == "Q8_0"
    assert made["token_embd.weight"] == "BF16"
    assert {made[f"blk.{i}.ffn_{part}.weight"] for i in (0, 1) for part in ("up", "down")} == {
        "Q5_1"
    }
    assert {made[f"blk.{i}.ffn_gate.weight"] for i in range(2, 8)} == {"Q4_1"}
    assert made["blk.0.ffn_norm.weight"] == "F32"
    assert made["blk.0.attn_q.weight"] == "Q4_0"


def test_the_output_type_is_that_of_a_tied_embedding(write_tiny_llama, tmp_path):
    tied = write_tiny_llama(tmp_path / "tied.gguf", tied=True)
    out = tmp_path / "out.gguf"
    assert run("quantize", tied, out, "--type", "Q4_0", "--output-type", "F16", "--quiet") == 0
    assert types(out)["token_embd.weight"] == "F16"


def test_any_number_of_threads_makes_the_same_file(f16_llama, tmp_path):
    made = []
    for n in (1, 3):
        out = tmp_path / f"{n}.gguf"
        assert run("quantize", f16_llama, out, "--type", "Q4_0", "--threads", str(n)) == 0
        made.append(out.read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tensor-type", "(=Q8_0"], "is not a regular expression"),
        (["--tensor-type", "attn=Q9"], "unknown tensor format 'Q9'"),
        (["--output-type", "Q4_K_M"], "unknown tensor format 'Q4_K_M'"),
        (["--output-type", "IQ2_S"], "output.weight would be IQ2_S, which this version reads and"),
        (["--threads", "0"], "--threads is 0"),
        (["--imatrix", "nothing.gguf"], "nothing.gguf: cannot be opened"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said_in_a_line(f16_llama, tmp_path, capsys, options, words):
    said = fail(capsys, "quantize", f16_llama, tmp_path / "out.gguf", "--type", "Q8_0", *options)
    assert words in said
    assert not list(tmp_path.iterdir())


def test_a_pattern_needs_a_type(f16_llama, capsys):
    with pytest.raises(SystemExit) as exited:
        run("quantize", f16_llama, "--dry-run", "--tensor-type", "attn_v")
    assert exited.value.code == 2
    assert "'attn_v' is not PATTERN=TYPE" in capsys.readouterr().err


def test_the_file_to_make_must_be_named_and_be_another(f16_llama, capsys):
    assert "behind the one to read" in fail(capsys, "quantize", f16_llama)
    said = fail(capsys, "quantize", f16_llama, f16_llama, "--type", "Q8_0")
    assert "is what is being read" in said


def test_a_checkpoint_is_left_to_convert(tmp_path, capsys):
    (tmp_path / "params.json").write_text("{}")
    said = fail(capsys, "quantize", tmp_path, tmp_path / "out.gguf")
    assert "edgellama: error: " in said


def test_rounding_twice_needs_leave_and_is_remarked(f16_llama, tmp_path, capsys):
    q8_0 = tmp_path / "q8_0.gguf"
    assert run("quantize", f16_llama, q8_0, "--type", "Q8_0", "--quiet") == 0
    again = ["quantize", q8_0, tmp_path / "again.gguf", "--type", "Q4_0"]
    assert "pass --allow-requantize" in fail(capsys, *again)
    assert run(*again, "--allow-requantize") == 0
    assert capsys.readouterr().err == (
        "note: 58 tensors are rounded a second time; a file made from the original loses less\n"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("type", ["Q4_0", "Q6_K", "Q8_0"])
def test_weights_that_are_no_numbers_are_refused_by_name(f16_llama, tmp_path, capsys, bad, type):
    spoilt = tmp_path / "spoilt.gguf"
    f16 = find_format("F16")
    with GGUFFile(f16_llama) as file:
        rows = f16.dequantize(file.data("blk.3.ffn_up.weight"))
        rows[200, 17] = bad
        data = {name: file.data(name) for name in file.tensors}
        data["blk.3.ffn_up.weight"] = f16.quantize(rows)
        tensors = [
            TensorToWrite(t.name, t.shape, t.format, partial(iter, [data[t.name]]))
            for t in file.tensors.values()
        ]
        keys = {key: value for key, value in file.metadata.items() if "tokens" not in key}
        write_gguf(spoilt, keys, tensors)
    out = tmp_path / "out.gguf"
    out.write_bytes(b"what was there before")
    said = fail(capsys, "quantize", spoilt, out, "--type", type)
    assert "blk.3.ffn_up.weight: holds" in said
    assert out.read_bytes() == b"what was there before"


def write_importance(path: Path, model: Path, *, without: str = " ", width: int = 0) -> Path:
    """An importance matrix of all matrices in the layers, its channels far apart."""
    rng = np.random.default_rng(0)
    with GGUFFile(model) as file:
        matrices = {
            name: info.shape[1]
            for name, info in file.tensors.items()
            if len(info.shape) == 2 and name.startswith("blk") and without not in name
        }
    sums = {name: rng.lognormal(0, 2, width or n).astype("f4") for name, n in matrices.items()}
    write_imatrix(path, ImportanceMatrix(sums, dict.fromkeys(sums, 7.0), ("a.txt",), 3, 512))
    return path


def test_an_importance_matrix_weighs_the_errors_and_is_recorded(f16_llama, tmp_path, capsys):
    matrix = write_importance(tmp_path / "i.gguf", f16_llama)
    out, plain = tmp_path / "out.gguf", tmp_path / "plain.gguf"
    quantize = ["quantize", f16_llama, "--type", "Q4_K_M", "--quiet"]
    assert run(*quantize, out, "--imatrix", matrix) == 0
    assert run(*quantize, plain) == 0
    keys = {"file": "i.gguf", "dataset": "a.txt", "entries_count": 56, "chunks_count": 3}
    name = "blk.3.attn_k.weight"
    with GGUFFile(out) as weighed, GGUFFile(plain) as alike, GGUFFile(f16_llama) as original:
        for key, value in keys.items():
            assert weighed.metadata[f"quantize.imatrix.{key}"] == value
            assert f"quantize.imatrix.{key}" not in alike.metadata
        true = find_format("F16").dequantize(original.data(name))
        importance = np.random.default_rng(0)  # drawn in the order of the file
        weights = {
            name: importance.lognormal(0, 2, info.shape[1])
            for name, info in original.tensors.items()
            if len(info.shape) == 2 and name.startswith("blk")
        }[name]
        errors = [
            ((find_format("Q4_K").dequantize(file.data(name)) - true) ** 2 * weights).sum()
            for file in (weighed, alike)
        ]
    assert errors[0] < 0.95 * errors[1]


def test_what_an_importance_matrix_lacks_is_remarked(f16_llama, tmp_path, capsys):
    matrix = write_importance(tmp_path / "i.gguf", f16_llama, without="attn_k")
    out = tmp_path / "out.gguf"
    assert run("quantize", f16_llama, "--imatrix", matrix, out, "--type", "Q8_0") == 0
    assert capsys.readouterr().err == (
        f"note: {matrix} lacks 8 matrices, whose columns count alike: blk.0.attn_k.weight,"
        " blk.1.attn_k.weight, blk.2.attn_k.weight, ...\n"
    )


def test_an_importance_matrix_of_another_model_is_refused(
    f16_llama, write_tiny_llama, tmp_path, capsys
):
    narrow = write_importance(tmp_path / "narrow.gguf", f16_llama, width=128)
    deeper = write_importance(
        tmp_path / "deeper.gguf", write_tiny_llama(tmp_path / "deep.gguf", n_layers=9, dim=256)
    )
    quantize = ["quantize", f16_llama, tmp_path / "out.gguf", "--type", "Q8_0", "--imatrix"]
    assert "is of another model, its blk.0.attn_k.weight has 128" in fail(capsys, *quantize, narrow)
    assert "is of another model" in fail(capsys, *quantize, deeper)
    assert "is no importance matrix" in fail(capsys, *quantize, __file__)


def test_an_importance_matrix_is_never_overwritten(f16_llama, tmp_path, capsys):
    matrix = write_importance(tmp_path / "i.gguf", f16_llama)
    before = matrix.read_bytes()
    said = fail(capsys, "quantize", f16_llama, matrix, "--type", "Q8_0", "--imatrix", matrix)
    assert "is what is being read" in said
    assert matrix.read_bytes() == before


def test_q2_k_s_needs_an_importance_matrix(f16_llama, tmp_path, capsys):
    said = fail(capsys, "quantize", f16_llama, tmp_path / "out.gguf", "--type", "Q2_K_S")
    assert "edgellama imatrix" in said


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on the size of files")
def test_a_disk_that_fills_leaves_what_was_there(f16_llama, tmp_path):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"what was there before")
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        "from edgellama.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "quantize", str(f16_llama), str(out)]
    done = subprocess.run([*command, "--type", "Q8_0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"edgellama: error: {out}: cannot be written: File too large\n"
    assert out.read_bytes() == b"what was there before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_killed_midway_it_leaves_what_was_there(write_tiny_llama, tmp_path):
    model = write_tiny_llama(
        tmp_path / "big.gguf", format="F16", dim=1024, hidden_dim=4096, n_layers=8, tokenizer="bpe"
    )
    out = tmp_path / "out.gguf"
    out.write_bytes(b"what was there before")
    process = unfinished.begin(tmp_path, "quantize", model, out, "--type", "Q8_0")
    process.kill()
    process.communicate(timeout=60)
    assert out.read_bytes() == b"what was there before"
    assert run("quantize", model, out, "--type", "Q8_0", "--quiet") == 0  # and sweeps up
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.gguf", "out.gguf"]
