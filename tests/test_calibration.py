"""The importance matrix: what is collected, against transformers; the files, against gguf-py."""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellama import calibration, cli
from edgellama.backends import Batch, load_backend
from edgellama.backends.reference import dequantize_layer, rms_norm
from edgellama.calibration import Reading, SquareSums, collect_imatrix
from edgellama.config import ModelConfig
from edgellama.errors import InvalidRequest, ModelFormatError, ResourceError
from edgellama.gguf import GGUFFile
from edgellama.gguf_imatrix import ImportanceMatrix, read_imatrix, write_imatrix
from edgellama.weights import ModelWeights, load_weights

N_LAYERS = 2
CHUNKS = np.random.default_rng(0).integers(3, 250, (3, 40)).astype(np.int32)


def load(path: Path) -> tuple[ModelConfig, ModelWeights]:
    with GGUFFile(path) as file:
        config = ModelConfig.from_gguf(file)
        return config, load_weights(file, config)


def collect(path: Path, **options: Any) -> ImportanceMatrix:
    return collect_imatrix(*load(path), CHUNKS, dataset="a.txt", **options)


@pytest.fixture
def matrix() -> ImportanceMatrix:
    sums = {"blk.0.attn_q.weight": np.arange(4, dtype=np.float32)}
    sums["blk.0.ffn_down.weight"] = np.array([0.5, 0, 2, 3, 4, 1e9], np.float32)
    return ImportanceMatrix(sums, dict.fromkeys(sums, 10), ("a.txt", "b.txt"), 5, 2)


def assert_same(found: ImportanceMatrix, expected: ImportanceMatrix) -> None:
    assert found.sums.keys() == expected.sums.keys()
    for name, sums in expected.sums.items():
        np.testing.assert_array_equal(found.sums[name], sums)
    assert dict(found.counts) == dict(expected.counts)
    assert (found.datasets, found.n_chunks) == (expected.datasets, expected.n_chunks)
    assert found.chunk_size == expected.chunk_size


# --- what is collected


def squares_in_transformers(model: Any) -> dict[str, np.ndarray]:
    """Sums of squared inputs of every linear layer, under GGUF names, seen by hooks of torch."""
    import torch

    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    found: dict[str, np.ndarray] = {}

    def hook(name: str) -> Callable[..., None]:
        def add(module: Any, inputs: tuple[Any, ...]) -> None:
            squares = (inputs[0].double() ** 2).sum((0, 1)).numpy()
            found[name] = found.get(name, 0) + squares

        return add

    for path, module in model.named_modules():
        if path == "lm_head":
            module.register_forward_pre_hook(hook("token_embd.weight"))
        elif isinstance(module, torch.nn.Linear):
            _, _, layer, stem = path.split(".", 3)
            module.register_forward_pre_hook(hook(f"blk.{layer}.{names[stem]}.weight"))
    with torch.no_grad():
        model(torch.tensor(CHUNKS, dtype=torch.int64))
    return found


@pytest.mark.parametrize("format", ["F32", "Q4_0"])
def test_sums_are_those_that_hooks_see_in_transformers(
    tmp_path: Path,
    write_tiny_llama: Callable[..., Path],
    as_transformers: Callable[[Path], Any],
    format: str,
) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf", format=format)
    expected = squares_in_transformers(as_transformers(path))
    found = collect(path, output=True)
    assert found.sums.keys() == expected.keys()
    assert len(expected) == 7 * N_LAYERS + 1  # token_embd, which is the output of a tied model
    for name, squares in expected.items():
        # Two float32 programs: inputs differ by 1e-6 of the largest, squares by twice that.
        np.testing.assert_allclose(
            found.sums[name], squares, rtol=1e-5, atol=1e-6 * squares.max(), err_msg=name
        )
    assert set(found.counts.values()) == {CHUNKS.size}


def test_the_output_matrix_is_left_out_unless_asked_for(tiny_llama: Path) -> None:
    assert all(name.startswith("blk.") for name in collect(tiny_llama).sums)


def test_an_untied_output_goes_by_its_own_name(
    tmp_path: Path, write_tiny_llama: Callable[..., Path]
) -> None:
    path = write_tiny_llama(tmp_path / "m.gguf", tied=False, n_layers=1)
    assert "output.weight" in collect(path, output=True).sums


def test_chunks_read_in_groups_give_the_same_sums(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = collect(tiny_llama)
    monkeypatch.setattr(calibration, "VALUES_AT_ONCE", 1)
    alone = collect(tiny_llama)
    for name, sums in together.sums.items():
        np.testing.assert_allclose(alone.sums[name], sums, rtol=1e-6)  # in another order
    assert alone.counts == together.counts


def test_a_reading_ends_where_the_backend_does(tiny_llama: Path) -> None:
    config, weights = load(tiny_llama)
    reading = Reading(config, weights, CHUNKS)
    for i, layer in enumerate(weights.layers):
        reading.pass_layer(i, dequantize_layer(layer), lambda names, x: None)
    backend = load_backend("reference", config, weights, n_ctx=64)
    for chunk, x in zip(CHUNKS, reading.x, strict=True):
        expected = backend.forward(Batch.of(chunk, wanted="all"))
        backend.drop(0)
        found = rms_norm(x, weights.output_norm, config.norm_eps) @ weights.output.dequantize().T
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)  # logits around one


def test_an_observer_sees_each_input_once_with_all_that_it_feeds(tiny_llama: Path) -> None:
    config, weights = load(tiny_llama)
    seen: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
    reading = Reading(config, weights, CHUNKS[:1])
    reading.pass_layer(
        1, dequantize_layer(weights.layers[1]), lambda names, x: seen.append((names, x.shape))
    )
    assert seen == [
        (("blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight"), (40, 64)),
        (("blk.1.attn_output.weight",), (40, 64)),
        (("blk.1.ffn_gate.weight", "blk.1.ffn_up.weight"), (40, 64)),
        (("blk.1.ffn_down.weight",), (40, 96)),
    ]


def test_inputs_that_are_not_numbers_are_refused_with_the_matrix() -> None:
    with pytest.raises(ModelFormatError, match=r"inputs of blk.0.attn_q.weight are not numbers"):
        SquareSums()(("blk.0.attn_q.weight",), np.array([[1, np.nan]], np.float32))


# --- files


def test_a_written_matrix_is_read_as_it_was(tmp_path: Path, matrix: ImportanceMatrix) -> None:
    write_imatrix(tmp_path / "i.gguf", matrix)
    assert_same(read_imatrix(tmp_path / "i.gguf"), matrix)


def test_the_file_is_laid_out_as_llama_cpp_lays_it_out(
    tmp_path: Path, matrix: ImportanceMatrix
) -> None:
    gguf = pytest.importorskip("gguf")
    write_imatrix(tmp_path / "i.gguf", matrix)
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert {name: field.contents() for name, field in fields.items()} == {
        "general.type": "imatrix",
        "imatrix.datasets": ["a.txt", "b.txt"],
        "imatrix.chunk_count": 5,
        "imatrix.chunk_size": 2,
    }
    u32 = gguf.GGUFValueType.UINT32
    assert [fields[f"imatrix.chunk_{key}"].types for key in ("count", "size")] == [[u32], [u32]]
    f32 = gguf.GGMLQuantizationType.F32
    assert [(t.name, t.shape.tolist(), t.tensor_type) for t in reader.tensors] == [
        ("blk.0.attn_q.weight.in_sum2", [4], f32),
        ("blk.0.attn_q.weight.counts", [1], f32),
        ("blk.0.ffn_down.weight.in_sum2", [6], f32),
        ("blk.0.ffn_down.weight.counts", [1], f32),
    ]
    np.testing.assert_array_equal(reader.tensors[0].data, [0, 1, 2, 3])
    assert reader.tensors[1].data.tolist() == [10]


def test_files_with_two_dimensions_and_more_tensors_are_read(
    tmp_path: Path, matrix: ImportanceMatrix
) -> None:
    """llama.cpp has written (1, cols), and newer ones write sums of the inputs themselves."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "i.gguf", arch="none")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", list(matrix.datasets))
    writer.add_uint32("imatrix.chunk_count", 5)
    writer.add_uint32("imatrix.chunk_size", 2)
    for name, sums in matrix.sums.items():
        writer.add_tensor(f"{name}.in_sum", -sums[None])
        writer.add_tensor(f"{name}.in_sum2", sums[None])
        writer.add_tensor(f"{name}.counts", np.full((1, 1), 10, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_same(read_imatrix(tmp_path / "i.gguf"), matrix)


def dat(matrix: ImportanceMatrix) -> bytes:
    """The older form, by hand: counts are calls."""
    data = struct.pack("<i", len(matrix.sums))
    for name, sums in matrix.sums.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack("<ii", int(matrix.counts[name]), len(sums)) + sums.tobytes()
    return data + struct.pack("<i", matrix.n_chunks) + struct.pack("<i", 5) + b"a.txt"


def test_the_older_form_is_read(tmp_path: Path, matrix: ImportanceMatrix) -> None:
    (tmp_path / "i.dat").write_bytes(dat(matrix))
    expected = ImportanceMatrix(matrix.sums, matrix.counts, ("a.txt",), 5, 0)
    assert_same(read_imatrix(tmp_path / "i.dat"), expected)


def test_the_older_form_without_its_end_is_read(tmp_path: Path, matrix: ImportanceMatrix) -> None:
    (tmp_path / "i.dat").write_bytes(dat(matrix)[: -4 - 4 - 5])
    expected = ImportanceMatrix(matrix.sums, matrix.counts, (), 0, 0)
    assert_same(read_imatrix(tmp_path / "i.dat"), expected)


def test_weights_are_means_and_none_where_nothing_was_collected(matrix: ImportanceMatrix) -> None:
    found = matrix.weights("blk.0.attn_q.weight", 4)
    assert found is not None
    np.testing.assert_allclose(found, np.array([0, 0.1, 0.2, 0.3]), rtol=1e-6)
    assert matrix.weights("blk.9.attn_q.weight", 4) is None
    empty = ImportanceMatrix(matrix.sums, dict.fromkeys(matrix.sums, 0))
    assert empty.weights("blk.0.attn_q.weight", 4) is None
    with pytest.raises(
        ModelFormatError, match=r"has 4 channels for blk.0.attn_q.weight, which has 8"
    ):
        matrix.weights("blk.0.attn_q.weight", 8)


def test_damaged_files_are_refused_in_words(tmp_path: Path, matrix: ImportanceMatrix) -> None:
    whole = dat(matrix)
    path = tmp_path / "i.dat"
    for n in range(len(whole) - 4 - 4 - 5):  # cut anywhere before its last optional part
        path.write_bytes(whole[:n])
        with pytest.raises(ModelFormatError, match=r"no importance matrix|without entries"):
            read_imatrix(path)
    for at, value in ((0, -1), (0, 2**30), (4, -5), (4, 2**30)):
        path.write_bytes(whole[:at] + struct.pack("<i", value) + whole[at + 4 :])
        with pytest.raises(ModelFormatError, match=r"no importance matrix|without entries"):
            read_imatrix(path)


def test_values_that_no_sum_of_squares_has_are_refused(tmp_path: Path) -> None:
    for value in (-1, np.nan, np.inf):
        sums = {"blk.0.attn_q.weight": np.array([1, value], np.float32)}
        write_imatrix(tmp_path / "i.gguf", ImportanceMatrix(sums, {"blk.0.attn_q.weight": 3}))
        with pytest.raises(ModelFormatError, match="no sum of squares"):
            read_imatrix(tmp_path / "i.gguf")
    write_imatrix(
        tmp_path / "i.gguf",
        ImportanceMatrix({"a": np.ones(2, np.float32)}, {"a": -1}),
    )
    with pytest.raises(ModelFormatError, match="a has a count of -1"):
        read_imatrix(tmp_path / "i.gguf")


def test_a_model_is_no_importance_matrix(tmp_path: Path, tiny_llama: Path) -> None:
    with pytest.raises(ModelFormatError, match="it is not an importance matrix"):
        read_imatrix(tiny_llama)
    with pytest.raises(ResourceError, match="cannot be opened"):
        read_imatrix(tmp_path / "missing.gguf")


# --- the command


def test_the_command_writes_what_the_library_collects(
    tmp_path: Path, tiny_llama: Path, tiny_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out.gguf"
    text.write_text(tiny_text, encoding="utf-8")
    assert cli.main(["imatrix", str(tiny_llama), str(text), "-o", str(out), "--ctx", "64",
                     "--chunks", "2"]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert re.search(rf"out\.gguf: {7 * N_LAYERS} matrices over 2 chunks of 64 tokens", said)
    found = read_imatrix(out)
    assert (found.n_chunks, found.chunk_size, found.datasets) == (2, 64, (str(text),))
    assert set(found.counts.values()) == {128}
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "out.gguf"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["MODEL", "no.txt"], "no.txt: No such file"),
        (["no.gguf", "text.txt"], "no.gguf: cannot be opened"),
        (["MODEL", "text.txt", "--ctx", "1024"], "reads at most 512 tokens"),
        (["MODEL", "text.txt", "-o", "no/i.gguf"], "does not exist"),
        (["MODEL", "text.txt", "--ctx", "16", "-o", "MODEL"], "is what is being read"),
        (["MODEL", "text.txt", "--ctx", "16", "-o", "text.txt"], "is what is being read"),
        (["MODEL", "text.txt"], "take a longer text"),
    ],
)
def test_what_cannot_be_collected_is_said_in_one_line(
    tmp_path: Path,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("once upon a time " * 5, encoding="utf-8")
    before = tiny_llama.read_bytes()
    assert cli.main(["imatrix", *(a.replace("MODEL", str(tiny_llama)) for a in arguments)]) == 1
    _, err = capsys.readouterr()
    assert err.startswith("edgellama: error: ")
    assert words in err
    assert tiny_llama.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_path_that_is_being_read_is_never_written(
    matrix: ImportanceMatrix, tmp_path: Path
) -> None:
    write_imatrix(tmp_path / "i.gguf", matrix)
    with pytest.raises(InvalidRequest, match="is what is being read"):
        write_imatrix(tmp_path / "i.gguf", matrix, inputs=[tmp_path / "i.gguf"])
