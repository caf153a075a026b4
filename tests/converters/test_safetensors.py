"""Safetensors files and indexes: read as the format's own library reads them, and more strictly."""

import json
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellama.converters.safetensors import INDEX_NAME, open_safetensors
from edgellama.errors import CheckpointRefused

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


def safetensors_bytes(header: object, data: bytes = b"", n_header: int | None = None) -> bytes:
    """A file by hand; `header` is JSON already when it is bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if n_header is None else n_header) + text + data


def entry(
    begin: int, end: int, shape: tuple[int, ...] = (2, 3), dtype: str = "F32"
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_what_the_library_wrote(dtype: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="numpy has no bfloat16 or float8")
    library = pytest.importorskip("safetensors.torch", reason="compares with the library itself")
    values = (torch.arange(35).reshape(7, 5) * 3.7 - 60).abs().to(getattr(torch, dtype))
    path = tmp_path / "model.safetensors"
    tensors = {
        "w": values,
        "row": values[2].clone(),
        "none": values[:0],
        "one": values[0, 1].clone(),
    }
    library.save_file(tensors, path, metadata={"format": "pt"})
    opened, expected = open_safetensors(path), library.load_file(path)
    assert opened.keys() == expected.keys()
    for name, tensor in opened.items():
        assert (tensor.dtype, tensor.source) == (DTYPES[dtype], str(path))
        assert tensor.shape == tuple(expected[name].shape)
        whole = expected[name].float().numpy().reshape(tensor.n_rows, *tensor.shape[1:])
        np.testing.assert_array_equal(tensor.rows(0, tensor.n_rows), whole)
    np.testing.assert_array_equal(opened["w"].rows(2, 5), values[2:5].float().numpy())


def test_reads_a_file_made_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = {"b": entry(24, 30, (3,), "BF16"), "__metadata__": {"format": "pt"}, "a": entry(0, 24)}
    data = np.arange(6, dtype="<f4").tobytes() + np.array([0x3F80, 0xC000, 0x7F80], "<u2").tobytes()
    text = json.dumps(header).encode() + b"   "  # padded with spaces, as the library does
    path.write_bytes(safetensors_bytes(text, data))
    tensors = open_safetensors(path)
    np.testing.assert_array_equal(tensors["a"].rows(1, 2), [[3, 4, 5]])
    np.testing.assert_array_equal(tensors["b"].rows(0, 3), [1, -2, np.inf])


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "model")


def write_shards(folder: Path) -> Path:
    """A folder of two shards: a and b lie in the first, c in the second; the index omits b."""
    folder.mkdir()
    values = np.arange(6, dtype="<f4").tobytes()
    first = safetensors_bytes({"a": entry(0, 24), "b": entry(24, 48)}, values * 2)
    (folder / "model-1.safetensors").write_bytes(first)
    (folder / "model-2.safetensors").write_bytes(safetensors_bytes({"c": entry(0, 24)}, values))
    write_index(folder, {"a": "model-1.safetensors", "c": "model-2.safetensors"})
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")


def test_an_index_says_which_shard_has_what(sharded: Path) -> None:
    for path in (sharded, sharded / INDEX_NAME):
        tensors = open_safetensors(path)
        assert {name: Path(tensor.source).name for name, tensor in tensors.items()} == {
            "a": "model-1.safetensors",
            "c": "model-2.safetensors",
        }
        np.testing.assert_array_equal(tensors["c"].rows(1, 2), [[3, 4, 5]])


def test_a_single_file_goes_before_an_index(sharded: Path) -> None:
    (sharded / "model-2.safetensors").rename(sharded / "model.safetensors")
    assert list(open_safetensors(sharded)) == ["c"]


def test_links_into_the_cache_of_hugging_face_are_followed(sharded: Path) -> None:
    """There a snapshot holds nothing but links into one folder of blobs."""
    snapshot = sharded.parent / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    for path in sharded.iterdir():
        link(snapshot / path.name, path)
    assert list(open_safetensors(snapshot)) == ["a", "c"]


def link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("this system lets only administrators make links")


GOOD_DATA = bytes(24)
BAD_FILES = {
    "empty": (b"", "but empty"),
    "short": (b"\2\0\0", "not a safetensors file"),
    "git-LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
    "zip": (b"PK\3\4" + bytes(40), "zip archive"),
    "header of 2^63": (safetensors_bytes({}, n_header=2**63), "is not a safetensors file"),
    "header over 100 MB": (safetensors_bytes({}, n_header=100_000_001), "is not a safetensors"),
    "header cut": (safetensors_bytes({}, n_header=100), "download is incomplete"),
    "leading space": (safetensors_bytes(b" {}"), "is not a safetensors file"),
    "list": (safetensors_bytes(b"[]"), "is not a safetensors file"),
    "no JSON": (safetensors_bytes(b"{]"), "JSON cannot be read"),
    "two values": (safetensors_bytes(b"{}{}"), "JSON cannot be read"),
    "not UTF-8": (safetensors_bytes(b'{"\xff": 1}'), "JSON cannot be read"),
    "NaN": (safetensors_bytes(b'{"a": NaN}'), "NaN is not JSON"),
    "long number": (safetensors_bytes(b'{"a": ' + b"1" * 5000 + b"}"), "JSON cannot be read"),
    "deep": (safetensors_bytes(b'{"a":' + b"[" * 100_000), "nested too deep"),
    "many values": (safetensors_bytes(b'{"a":[' + b"1," * 600_000 + b"1]}"), "600,002 values"),
    "key twice": (
        safetensors_bytes(b'{"a":{"dtype":"F32"},"a":{"dtype":"F32"}}'),
        "'a' appears twice",
    ),
    "metadata of numbers": (safetensors_bytes({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata a list": (safetensors_bytes({"__metadata__": []}), "__metadata__"),
    "entry a list": (safetensors_bytes({"a": []}), "'a' is malformed"),
    "entry without dtype": (
        safetensors_bytes({"a": {"shape": [6], "data_offsets": [0, 24]}}, GOOD_DATA),
        "'a' is malformed",
    ),
    "entry with more": (safetensors_bytes({"a": entry(0, 24) | {"x": 1}}, GOOD_DATA), "malformed"),
    "three offsets": (
        safetensors_bytes({"a": entry(0, 24) | {"data_offsets": [0, 12, 24]}}, GOOD_DATA),
        "malformed",
    ),
    "truth as a size": (
        safetensors_bytes({"a": entry(0, 24) | {"shape": [True, 6]}}, GOOD_DATA),
        "malformed",
    ),
    "size a fraction": (
        safetensors_bytes({"a": entry(0, 24) | {"shape": [6.0]}}, GOOD_DATA),
        "malformed",
    ),
    "negative size": (safetensors_bytes({"a": entry(0, 24, (-2, -3))}, GOOD_DATA), "malformed"),
    "negative offset": (safetensors_bytes({"a": entry(-24, 0)}, GOOD_DATA), "malformed"),
    "unknown dtype": (safetensors_bytes({"a": entry(0, 24, dtype="F4")}, GOOD_DATA), "'F4'"),
    "wraps 64 bits": (
        safetensors_bytes({"a": entry(0, 0, (2**32, 2**32))}),
        "an impossible shape",
    ),
    "sizes disagree": (safetensors_bytes({"a": entry(0, 24, (7,))}, GOOD_DATA), "takes 28 bytes"),
    "backwards": (safetensors_bytes({"a": entry(24, 0)}, GOOD_DATA), "span -24"),
    "hole at the start": (safetensors_bytes({"a": entry(4, 28)}, bytes(28)), "hole before"),
    "hole": (
        safetensors_bytes({"a": entry(0, 24), "b": entry(28, 52)}, bytes(52)),
        "hole before tensor 'b'",
    ),
    "overlap": (
        safetensors_bytes({"a": entry(0, 24), "b": entry(20, 44)}, bytes(44)),
        "overlap at tensor 'b'",
    ),
    "two of one place": (
        safetensors_bytes({"a": entry(0, 24), "b": entry(0, 24)}, GOOD_DATA),
        "overlap at",
    ),
    "truncated": (safetensors_bytes({"a": entry(0, 24)}, bytes(23)), "incomplete or damaged"),
    "trailing": (safetensors_bytes({"a": entry(0, 24)}, bytes(25)), "incomplete or damaged"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_is_refused(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    data, says = BAD_FILES[fault]
    path.write_bytes(data)
    with pytest.raises(CheckpointRefused, match=rf"bad\.safetensors: .*{says}"):
        open_safetensors(path)


BAD_SHARD_NAMES = (
    "../../../etc/passwd",
    "../secret.safetensors",
    "/etc/passwd",
    "sub/model-1.safetensors",
    "..\\secret.safetensors",
    "C:secret.safetensors",
    "a\0.safetensors",
    "..",
    "",
    ".safetensors",
    "model-1.bin",
    7,
    None,
    ["model-1.safetensors"],
)


@pytest.mark.parametrize("name", BAD_SHARD_NAMES)
def test_a_shard_name_that_leads_elsewhere_is_refused(name: object, sharded: Path) -> None:
    secret = (sharded / "model-2.safetensors").read_bytes()
    (sharded.parent / "secret.safetensors").write_bytes(secret)
    write_index(sharded, {"a": "model-1.safetensors", "c": name})
    with pytest.raises(CheckpointRefused, match="is no plain file name"):
        open_safetensors(sharded)


@pytest.mark.parametrize("target", ["../secret.safetensors", "model-9.safetensors"])
def test_a_link_to_outside_or_in_a_circle_is_refused(target: str, sharded: Path) -> None:
    (sharded / "model-2.safetensors").rename(sharded.parent / "secret.safetensors")
    link(sharded / "model-9.safetensors", Path("model-2.safetensors"))
    link(sharded / "model-2.safetensors", Path(target))
    with pytest.raises(CheckpointRefused, match=r"outside the folder|cannot be followed|missing"):
        open_safetensors(sharded)


WITNESS = """
import sys
from edgellama.converters.safetensors import open_safetensors
from edgellama.errors import CheckpointRefused
opened = []
sys.addaudithook(lambda event, args: event == "open" and opened.append(str(args[0])))
for folder in sys.argv[1:]:
    try:
        open_safetensors(folder)
    except CheckpointRefused:
        continue
    raise SystemExit(f"{folder} was not refused")
print(*opened, sep="\\n")
"""


def test_a_hostile_index_opens_no_file_but_itself(tmp_path: Path) -> None:
    write_shards(tmp_path / "good")
    secret = (tmp_path / "good" / "model-2.safetensors").rename(tmp_path / "secret.safetensors")
    names = ("../secret.safetensors", str(secret), "model-3.safetensors", "..", "a\0.safetensors")
    folders = [write_shards(tmp_path / str(number)) for number in range(len(names))]
    for folder, name in zip(folders, names, strict=True):
        link(folder / "model-3.safetensors", secret)
        write_index(folder, {"a": "model-1.safetensors", "c": name})
    command = [sys.executable, "-c", WITNESS, *map(str, folders)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert set(output.split()) == {str(folder / INDEX_NAME) for folder in folders}


BAD_INDEXES = {
    "empty": (b"", "JSON cannot be read"),
    "list": (b"[]", 'has no "weight_map"'),
    "no map": (b'{"metadata": {}}', 'has no "weight_map"'),
    "map a list": (b'{"weight_map": [1]}', 'has no "weight_map"'),
    "map empty": (b'{"weight_map": {}}', 'has no "weight_map"'),
    "deep": (b'{"weight_map":' * 100_000, "nested too deep"),
    "key twice": (b'{"weight_map": {"a": "x", "a": "y"}}', "'a' appears twice"),
    "large": (b" " * ((16 << 20) + 1), "at most 16,777,216"),
    "shards missing": (
        b'{"weight_map": {"a": "model-1.safetensors", "d": "model-4.safetensors"}}',
        r"1 of 2 shards are missing: model-4\.safetensors",
    ),
    "tensor missing": (
        b'{"weight_map": {"d": "model-1.safetensors"}}',
        r"places tensor 'd' in model-1\.safetensors",
    ),
}


@pytest.mark.parametrize("fault", BAD_INDEXES)
def test_a_bad_index_is_refused(fault: str, sharded: Path) -> None:
    data, says = BAD_INDEXES[fault]
    (sharded / INDEX_NAME).write_bytes(data)
    with pytest.raises(CheckpointRefused, match=rf"index\.json: .*{says}"):
        open_safetensors(sharded)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match=r"neither model\.safetensors nor"):
        open_safetensors(tmp_path)


def test_mutants_are_read_or_refused(tmp_path: Path) -> None:
    """Of 3,000 files with a few bytes changed, each raises this one exception or none."""
    rng, path = random.Random(2), tmp_path / "m.safetensors"
    header = {"a": entry(0, 24), "b": entry(24, 30, (3,), "BF16"), "__metadata__": {"x": "y"}}
    good = safetensors_bytes(header, bytes(30))
    path.write_bytes(good)
    n_read = 0
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.choice((0, 32, 34, 44, 48, 57, 91, 123, 125, 255))
        with open(path, "r+b") as file:
            file.write(data)
        try:
            for tensor in open_safetensors(path).values():
                tensor.rows(0, tensor.n_rows)
            n_read += 1
        except CheckpointRefused:
            pass
    assert 20 < n_read < 1500  # some change only values or names; most are seen
