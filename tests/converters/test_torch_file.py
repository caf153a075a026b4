"""Files of torch.save: read without torch, they say what torch itself reads from them."""

import os
import struct
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellama.converters import checkpoint
from edgellama.converters.torch_file import open_torch
from edgellama.errors import CheckpointRefused

DTYPES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)
FORMS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="compares with torch itself")


def assert_as_torch_loads(path: Path, torch: Any) -> None:
    """Every tensor, whole and in blocks of rows, has the values of torch.load: exactly."""
    expected = torch.load(path, weights_only=True)
    tensors = open_torch(path)
    assert list(tensors) == list(expected)
    for name, tensor in tensors.items():
        values = expected[name].detach().to(torch.float32).numpy()
        assert tensor.shape == values.shape
        assert tensor.n_bytes == expected[name].numel() * expected[name].element_size()
        assert tensor.source == str(path)
        values = values.reshape(tensor.n_rows, *values.shape[1:])
        for start in range(0, tensor.n_rows, 3):
            stop = min(start + 3, tensor.n_rows)
            block = tensor.rows(start, stop)
            assert block.dtype == np.float32
            np.testing.assert_array_equal(block, values[start:stop])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_every_dtype(form: str, dtype: str, torch: Any, tmp_path: Path) -> None:
    values = (torch.arange(35).reshape(7, 5) * 3.7 - 40).abs()
    torch.save({"w": values.to(getattr(torch, dtype))}, tmp_path / "m.pth", **FORMS[form])
    assert_as_torch_loads(tmp_path / "m.pth", torch)


def test_reads_float8(torch: Any, tmp_path: Path) -> None:
    codes = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    torch.save({"w": codes.view(torch.float8_e4m3fn)}, tmp_path / "m.pth")
    assert_as_torch_loads(tmp_path / "m.pth", torch)
    assert open_torch(tmp_path / "m.pth")["w"].dtype == "F8_E4M3"


def test_widens_every_bfloat16(torch: Any, tmp_path: Path) -> None:
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).reshape(256, 256)
    torch.save({"w": bits.view(torch.bfloat16)}, tmp_path / "m.pth")
    assert_as_torch_loads(tmp_path / "m.pth", torch)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pieces", ["whole", "many"])
def test_follows_views(
    form: str, pieces: str, torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces == "many":  # as for a storage of gigabytes: few bytes at once, few of them skipped
        monkeypatch.setattr(checkpoint, "_SPAN_BYTES", 40)
        monkeypatch.setattr(checkpoint, "_GAP_BYTES", 24)
    w = torch.arange(7 * 10, dtype=torch.float32).reshape(7, 10)
    cube = torch.arange(4 * 5 * 6).to(torch.bfloat16).reshape(4, 5, 6)
    views = {
        "whole": w,
        "transposed": w.T,
        "columns": w[:, 3:6],
        "rows": w[2:5],
        "every second": w[::2, 1::3],
        "row": w[4],
        "column": w[:, 4],
        "scalar": w[6, 9],
        "empty": w[3:3],
        "overlapping": w.flatten().as_strided((5, 4), (2, 1), 7),
        "narrow": torch.arange(200.0).reshape(2, 100).T,
        "permuted": cube.permute(2, 0, 1),
        "permuted back": cube.permute(1, 2, 0)[1:4, ::2],
        "thin": cube[:, 2:3, :].transpose(0, 1),
    }
    torch.save(views, tmp_path / "m.pth", **FORMS[form])
    assert_as_torch_loads(tmp_path / "m.pth", torch)


@pytest.mark.parametrize("form", FORMS)
def test_takes_the_dictionary_that_holds_tensors(form: str, torch: Any, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    state = module.state_dict()  # an OrderedDict with the attribute _metadata
    for key in ("model", "state_dict"):
        torch.save({key: state, "step": 7, "lr": 0.1}, tmp_path / "nested.pth", **FORMS[form])
        torch.save(state, tmp_path / "plain.pth", **FORMS[form])
        nested, plain = open_torch(tmp_path / "nested.pth"), open_torch(tmp_path / "plain.pth")
        assert list(nested) == list(plain) == list(state)
    assert_as_torch_loads(tmp_path / "plain.pth", torch)


def test_unwraps_parameters_and_attributes(torch: Any, tmp_path: Path) -> None:
    marked = torch.nn.Parameter(torch.ones(2, 3))
    marked.is_row_parallel = True
    tensors = {"plain": torch.nn.Parameter(torch.arange(6.0)), "marked": marked}
    torch.save(OrderedDict(tensors), tmp_path / "m.pth")
    assert_as_torch_loads(tmp_path / "m.pth", torch)


def test_reads_any_file_name(torch: Any, tmp_path: Path) -> None:
    path = tmp_path / "my Llama (1)·é.pth"  # torch puts it into the names of the members
    torch.save({"w": torch.ones(3)}, path)
    assert_as_torch_loads(path, torch)


@pytest.mark.parametrize("form", FORMS)
def test_needs_no_torch(form: str, torch_writer: Any, tmp_path: Path) -> None:
    w = torch_writer
    values = np.arange(6, dtype="<f4")
    body = w.dictionary({"w": w.tensor(w.storage("0", 6, view=b"N"), (2, 3), (1, 2))})
    path = tmp_path / "m.pth"
    if form == "zip":
        path.write_bytes(w.zip_file(body, {"0": values.tobytes()}))
    else:
        path.write_bytes(w.legacy_file(body, {"0": (6, values.tobytes())}))
    tensor = open_torch(path)["w"]
    np.testing.assert_array_equal(tensor.rows(0, 2), [[0, 2, 4], [1, 3, 5]])
    with pytest.raises(ValueError, match=r"rows 1\.\.3 of 2"):
        tensor.rows(1, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a file system with sparse files")
def test_reads_rows_of_a_tensor_larger_than_memory(torch_writer: Any, tmp_path: Path) -> None:
    """A storage of 128 GiB, in a sparse file with the zip64 records that this size needs."""
    w, n_rows, n_cols = torch_writer, 1 << 21, 1 << 15
    body = w.tensor(w.storage("0", n_rows * n_cols, "BFloat16"), (n_rows, n_cols), (n_cols, 1))
    path = tmp_path / "m.pth"
    write_sparse_archive(path, w.program(w.dictionary({"w": body})), n_rows * n_cols * 2)
    tensor = open_torch(path)["w"]
    with open(path, "r+b") as file:
        file.seek(tensor.offset + (n_rows - 1) * n_cols * 2)
        file.write(struct.pack("<H", 0x3FC0))  # 1.5
    tensor = open_torch(path)["w"]
    assert tensor.n_bytes == 1 << 37
    last = tensor.rows(n_rows - 2, n_rows)
    assert last.shape == (2, n_cols)
    assert np.flatnonzero(last).tolist() == [n_cols]
    assert last[1, 0] == 1.5


def write_sparse_archive(path: Path, program: bytes, n_storage_bytes: int) -> None:
    """data.pkl = program and data/0 = zeros, the directory beyond 4 GiB."""
    directory = b""
    with open(path, "wb") as file:
        for name, n_bytes in ((b"r/data/0", n_storage_bytes), (b"r/data.pkl", len(program))):
            start = file.tell()
            file.write(struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0x808, *[0] * 6, len(name), 5))
            file.write(name + b"FB\1\0Z")  # padding that the directory does not tell of
            zip64 = struct.pack("<2H3Q", 1, 24, n_bytes, n_bytes, start)
            directory += struct.pack("<4s6H", b"PK\1\2", 0, 0, 0x808, 0, 0, 0)
            directory += struct.pack(
                "<3I5H2I", 0, *[2**32 - 1] * 2, len(name), 28, *[0] * 4, 2**32 - 1
            )
            directory += name + zip64
            if n_bytes == len(program):
                file.write(program)
            else:
                file.seek(n_bytes, os.SEEK_CUR)
        start = file.tell()
        file.write(directory)
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, *[0] * 4, 2, 2, len(directory), start))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1))
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, len(directory), 2**32 - 1, 0))


@pytest.mark.parametrize("fault", ["cut", "written to", "replaced", "removed"])
def test_a_file_that_changes_after_opening_is_refused(
    fault: str, torch_writer: Any, tmp_path: Path
) -> None:
    w, path = torch_writer, tmp_path / "m.pth"
    body = w.dictionary({"w": w.tensor(w.storage("0", 6), (2, 3), (3, 1))})
    data = w.zip_file(body, {"0": bytes(24)})
    path.write_bytes(data)
    tensor = open_torch(path)["w"]
    tensor.rows(0, 2)
    if fault == "removed":
        path.unlink()
    elif fault == "replaced":
        (tmp_path / "other").write_bytes(data)
        os.replace(tmp_path / "other", path)
    elif fault == "cut":
        os.truncate(path, tensor.offset + 4)
    else:
        status = path.stat()
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    with pytest.raises(CheckpointRefused, match=r"m\.pth"):
        tensor.rows(0, 2)
