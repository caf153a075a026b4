"""The types of tensors: which one each gets, its bytes, and what may be rounded again."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from sparse_llama import write_sparse_llama

from edgellama import converters
from edgellama.converters import convert, make_plan, open_source, pipeline
from edgellama.errors import CheckpointRefused, InvalidRequest
from edgellama.gguf import GGUFFile, TensorToWrite, write_gguf
from edgellama.quant import FORMATS, quantize

MADE = [format for format in FORMATS if format.can_quantize]
TYPES = [format.name for format in MADE if format.block_size <= 32]  # the tiny models' widths
AS_GGUF_PY = [name for name in TYPES if name != "IQ4_NL"]  # which gguf-py cannot make


@pytest.fixture
def folder(tiny_checkpoint, tmp_path) -> Path:
    return tiny_checkpoint(n_kv_heads=2).write_meta(tmp_path / "meta")


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


@pytest.mark.parametrize("type", AS_GGUF_PY)
def test_bytes_are_those_of_gguf_py(tiny_checkpoint, tmp_path, type):
    checkpoint = tiny_checkpoint(n_kv_heads=2)
    out = tmp_path / "out.gguf"
    convert(open_source(checkpoint.write_meta(tmp_path / "meta", 2)), out, type, pure=True)
    for tensor in GGUFReader(out).tensors:
        weight = checkpoint.weights[tensor.name]
        kind = GGMLQuantizationType["F32" if weight.ndim == 1 else type]
        assert tensor.tensor_type == kind
        want = gguf.quants.quantize(weight, kind)
        assert tensor.data.tobytes() == want.tobytes()


def test_q6_k_needs_wide_rows_and_says_so_of_others(tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint(dim=256, hidden_dim=288)
    out = tmp_path / "out.gguf"
    plan = convert(open_source(checkpoint.write_meta(tmp_path / "meta")), out, "q6_k")
    assert types(out)["blk.0.ffn_down.weight"] == "Q8_0"
    assert any("288 columns do not divide by the Q6_K block size 256" in n for n in plan.notes)
    with GGUFFile(out) as file:
        assert types(out)["output.weight"] == types(out)["blk.0.ffn_up.weight"] == "Q6_K"
        want = quantize(checkpoint.weights["blk.0.ffn_up.weight"], "Q6_K")
        assert np.array_equal(file.data("blk.0.ffn_up.weight"), want)


@pytest.mark.parametrize("rows_at_a_time", [1, 3, 7])
def test_blocks_of_rows_make_the_same_file(folder, tmp_path, monkeypatch, rows_at_a_time):
    convert(open_source(folder), tmp_path / "whole.gguf", "q8_0")
    monkeypatch.setattr(pipeline, "MAX_BLOCK_BYTES", rows_at_a_time * 64 * 4)
    convert(open_source(folder), tmp_path / "blocks.gguf", "q8_0")
    whole, blocks = (tmp_path / name for name in ("whole.gguf", "blocks.gguf"))
    assert blocks.read_bytes() == whole.read_bytes()


def test_q4_0_keeps_the_output_in_q8_0_unless_pure(folder, tmp_path):
    out = tmp_path / "out.gguf"
    convert(open_source(folder), out, "q4_0")
    assert types(out)["output.weight"] == "Q8_0"
    assert types(out)["token_embd.weight"] == "Q4_0"
    convert(open_source(folder), out, "q4_0", pure=True)
    assert types(out)["output.weight"] == "Q4_0"


def test_q4_0_keeps_a_tied_embedding_in_q8_0(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint(tied=True).write_meta(tmp_path / "meta")
    convert(open_source(folder), tmp_path / "out.gguf", "q4_0")
    assert types(tmp_path / "out.gguf")["token_embd.weight"] == "Q8_0"


def test_a_checkpoint_becomes_a_mix(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint(dim=256, hidden_dim=256).write_meta(tmp_path / "meta")
    plan = convert(open_source(folder), tmp_path / "out.gguf", "q4_k")
    made = types(tmp_path / "out.gguf")
    assert plan.type == "Q4_K_M"
    assert [made[f"blk.{i}.ffn_down.weight"] for i in range(2)] == ["Q4_K", "Q6_K"]
    assert (made["blk.0.attn_q.weight"], made["output.weight"]) == ("Q4_K", "Q6_K")


def test_columns_that_blocks_do_not_divide_fall_back_to_f16_and_say_so(tiny_checkpoint, tmp_path):
    folder = tiny_checkpoint(hidden_dim=40).write_meta(tmp_path / "meta")
    plan = convert(open_source(folder), tmp_path / "out.gguf", "q4_0")
    assert types(tmp_path / "out.gguf")["blk.0.ffn_down.weight"] == "F16"
    assert types(tmp_path / "out.gguf")["blk.0.ffn_up.weight"] == "Q4_0"
    assert (
        "ffn_down, 2 tensors: 40 columns do not divide by the Q4_0 block size 32; F16 instead"
        in (plan.notes)
    )


def test_a_weight_that_the_type_cannot_hold_is_refused(tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint()
    checkpoint.weights["blk.0.attn_v.weight"][3, 5] = 2.0**17
    folder = checkpoint.write_meta(tmp_path / "meta")
    with pytest.raises(InvalidRequest, match=r"blk\.0\.attn_v\.weight.*bf16"):
        convert(open_source(folder), tmp_path / "out.gguf", "f16")
    convert(open_source(folder), tmp_path / "out.gguf", "q8_0")


def test_a_weight_beyond_what_is_searched_is_refused_by_name(tiny_checkpoint, tmp_path):
    checkpoint = tiny_checkpoint(dim=256)
    checkpoint.weights["blk.0.attn_v.weight"][3, 5] = 2.0**30
    folder = checkpoint.write_meta(tmp_path / "meta")
    with pytest.raises(InvalidRequest, match=r"blk\.0\.attn_v\.weight: Q4_K holds weights up to"):
        convert(open_source(folder), tmp_path / "out.gguf", "q4_k_s", pure=True)


@pytest.mark.parametrize("type", TYPES)
def test_a_gguf_file_converts_like_its_checkpoint(folder, tmp_path, type):
    convert(open_source(folder), tmp_path / "f32.gguf", "f32")
    convert(open_source(tmp_path / "f32.gguf"), tmp_path / "again.gguf", type)
    convert(open_source(folder), tmp_path / "direct.gguf", type)
    direct, again = GGUFReader(tmp_path / "direct.gguf"), GGUFReader(tmp_path / "again.gguf")
    assert {k: f.contents() for k, f in direct.fields.items() if not k.startswith("GGUF")} == {
        k: f.contents() for k, f in again.fields.items() if not k.startswith("GGUF")
    }
    for one, other in zip(direct.tensors, again.tensors, strict=True):
        assert (one.name, one.data.tobytes()) == (other.name, other.data.tobytes())


def test_losing_twice_is_refused_unless_asked_for(folder, tmp_path):
    convert(open_source(folder), tmp_path / "q8_0.gguf", "q8_0")
    source = open_source(tmp_path / "q8_0.gguf")
    for type in ("q4_0", "f16", "bf16"):
        with pytest.raises(InvalidRequest, match="allow-requantize"):
            make_plan(source, type)
    for type in ("f32", "q8_0"):
        make_plan(source, type)
    convert(source, tmp_path / "q4_0.gguf", "q4_0", allow_requantize=True)
    assert types(tmp_path / "q4_0.gguf")["blk.0.ffn_up.weight"] == "Q4_0"


def test_quantized_tensors_that_keep_their_type_keep_their_bytes(folder, tmp_path):
    convert(open_source(folder), tmp_path / "q4_0.gguf", "q4_0")
    convert(open_source(tmp_path / "q4_0.gguf"), tmp_path / "copy.gguf", "q4_0")
    assert (tmp_path / "copy.gguf").read_bytes() == (tmp_path / "q4_0.gguf").read_bytes()


def test_a_split_model_becomes_one_file(folder, tmp_path):
    whole = tmp_path / "whole.gguf"
    convert(open_source(folder), whole, "q8_0")
    with GGUFFile(whole) as file:
        names = list(file.tensors)
        for part, mine in enumerate((names[:5], names[5:])):
            metadata = {"general.architecture": "llama", "split.no": part, "split.count": 2}
            if part == 0:
                strings = {k: list(v) for k, v in file.metadata.items() if hasattr(v, "raw")}
                metadata |= dict(file.metadata) | strings
            write_gguf(
                tmp_path / f"model-0000{part + 1}-of-00002.gguf",
                metadata,
                [
                    TensorToWrite(t.name, t.shape, t.format, partial(iter, [file.data(t.name)]))
                    for t in map(file.tensors.__getitem__, mine)
                ],
            )
    convert(open_source(tmp_path / "model-00001-of-00002.gguf"), tmp_path / "one.gguf", "q8_0")
    one, want = GGUFReader(tmp_path / "one.gguf"), GGUFReader(whole)
    assert [t.name for t in one.tensors] == [t.name for t in want.tensors]
    assert all(
        a.data.tobytes() == b.data.tobytes() for a, b in zip(one.tensors, want.tensors, strict=True)
    )
    assert one.get_field("split.count") is None


def test_a_source_is_never_its_own_output(folder, tmp_path):
    convert(open_source(folder), tmp_path / "model.gguf", "f32")
    before = (tmp_path / "model.gguf").read_bytes()
    with pytest.raises(InvalidRequest):
        convert(open_source(tmp_path / "model.gguf"), tmp_path / "model.gguf", "q8_0")
    os.link(tmp_path / "model.gguf", tmp_path / "link.gguf")
    with pytest.raises(InvalidRequest):
        convert(open_source(tmp_path / "model.gguf"), tmp_path / "link.gguf", "q8_0")
    assert (tmp_path / "model.gguf").read_bytes() == before


@pytest.mark.parametrize("name", ["consolidated.00.pth", "tokenizer.model"])
def test_a_source_that_changes_meanwhile_is_noticed(folder, tmp_path, name):
    source = open_source(folder)
    with open(folder / name, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    os.utime(folder / name, ns=(1, 1))
    with pytest.raises(CheckpointRefused, match="changed while"):
        convert(source, tmp_path / "out.gguf", "q8_0")
    assert not list(tmp_path.glob("out*"))


def test_an_interrupted_conversion_leaves_nothing(folder, tmp_path):
    def interrupt(n_bytes: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out.gguf").write_bytes(b"what was there before")
    with pytest.raises(KeyboardInterrupt):
        convert(open_source(folder), tmp_path / "out.gguf", "q8_0", progress=interrupt)
    assert [path.name for path in tmp_path.glob("out*")] == ["out.gguf"]
    assert (tmp_path / "out.gguf").read_bytes() == b"what was there before"


def test_progress_counts_every_byte(folder, tmp_path):
    counted: list[int] = []
    plan = convert(open_source(folder), tmp_path / "out.gguf", "q8_0", progress=counted.append)
    assert sum(counted) == plan.n_bytes


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's VmHWM")
def test_memory_does_not_grow_with_the_checkpoint(sentencepiece_model, tmp_path):
    dim, hidden_dim = 1536, 3072
    write_sparse_llama(
        tmp_path / "hf",
        sentencepiece_model,
        n_layers=24,
        dim=dim,
        hidden_dim=hidden_dim,
        vocab_size=400,
        n_heads=24,
        n_kv_heads=24,
        tied=True,
    )
    largest = 4 * dim * hidden_dim  # bytes of a tensor in float32
    # Not getrusage: its peak is inherited from whoever started the process.
    program = (
        "import sys; from edgellama.cli import main; status = main(sys.argv[1:]);"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]); sys.exit(status)"
    )
    command = [sys.executable, "-c", program, "convert", str(tmp_path / "hf"), "--quiet"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out.gguf"), "--type", "q4_0"],
        check=True,
        capture_output=True,
        text=True,
    )
    peak = int(done.stdout.split()[-1]) * 1024
    assert (tmp_path / "hf" / "model.safetensors").stat().st_size > 1e9
    assert peak < 2 * largest + 300 * 1024**2


def test_the_table_of_converters_has_one_for_each_kind(folder, tiny_llama, tmp_path):
    kinds = {open_source(path).kind for path in (folder, tiny_llama)}
    assert kinds == {"Meta folder, 1 shard", "GGUF file"}
    assert len(converters.CONVERTERS) == 3
