"""GGUF files read and written: the same bytes as gguf-py's, whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from edgellama.errors import InvalidRequest, ModelFormatError, ResourceError
from edgellama.gguf import GGUFFile, StringArray, TensorToWrite, write_gguf
from edgellama.quant import dequantize, find_format, quantize

METADATA: dict[str, Any] = {"general.architecture": "llama"}
WEIGHTS = np.random.default_rng(0).normal(0, 1, (6, 64)).astype(np.float32)


def tensor(name: str = "w", format: str = "Q8_0", values: Any = WEIGHTS) -> TensorToWrite:
    """Given row by row."""
    rows = quantize(np.atleast_2d(values), format)
    return TensorToWrite(name, np.shape(values), find_format(format), lambda: iter(rows))


# --- reading


def test_a_file_of_gguf_py_reads_back_in_every_value_type(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(128)
    scalars = {"uint8": 200, "int8": -7, "uint16": 60000, "int16": -300, "uint32": 4 * 10**9}
    scalars |= {"int32": -(2**31), "uint64": 2**64 - 1, "int64": -(2**63)}
    for kind, value in scalars.items():
        getattr(writer, f"add_{kind}")(kind, value)
    writer.add_float32("float32", 0.1)
    writer.add_float64("float64", 0.1)
    writer.add_bool("bool", True)
    writer.add_string("string", "grüße 🦙\n")
    writer.add_array("strings", ["a", "", "日本"])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, -1.5])
    writer.add_array("bools", [True, False])
    writer.add_tensor("plain", WEIGHTS)
    packed = gguf.quants.quantize(WEIGHTS, gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("vector", WEIGHTS[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with GGUFFile(tmp_path / "m.gguf") as file:
        assert file.version == 3
        assert {key: file.metadata[key] for key in scalars} == scalars
        assert file.metadata["float32"] == float(np.float32(0.1))
        assert file.metadata["float64"] == 0.1
        assert file.metadata["bool"] is True
        assert file.metadata["string"] == "grüße 🦙\n"
        assert list(file.metadata["strings"]) == ["a", "", "日本"]  # type: ignore[arg-type]
        np.testing.assert_array_equal(file.metadata["ints"], np.array([1, -2, 3], np.int32))
        np.testing.assert_array_equal(file.metadata["floats"], np.array([0.5, -1.5], np.float32))
        np.testing.assert_array_equal(file.metadata["bools"], [True, False])
        assert list(file.tensors) == ["plain", "packed", "vector"]
        assert file.tensors["packed"].shape == (6, 64)
        assert file.tensors["packed"].offset % 128 == 0
        np.testing.assert_array_equal(file.data("plain").view(np.float32), WEIGHTS)
        np.testing.assert_array_equal(file.data("packed"), packed)
        np.testing.assert_array_equal(file.data("vector").view(np.float32), WEIGHTS[:1])


def test_version_2_reads_like_version_3(tiny_llama: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_llama.read_bytes())
    content[4] = 2
    (tmp_path / "v2.gguf").write_bytes(content)
    with GGUFFile(tmp_path / "v2.gguf") as old, GGUFFile(tiny_llama) as new:
        assert (old.version, new.version) == (2, 3)
        assert old.tensors == new.tensors
        assert old.metadata.keys() == new.metadata.keys()


def test_data_is_the_file_itself_and_cannot_be_written(tiny_llama: Path) -> None:
    with GGUFFile(tiny_llama) as file:
        first, again = file.data("output_norm.weight"), file.data("output_norm.weight")
        assert np.shares_memory(first, again)
        with pytest.raises(ValueError, match="read-only"):
            first[0, 0] = 1
        info = file.tensors["output_norm.weight"]
        assert first.tobytes() == tiny_llama.read_bytes()[info.offset :][: info.n_bytes]


def test_views_and_metadata_outlive_the_file(tiny_llama: Path) -> None:
    with GGUFFile(tiny_llama) as file:
        view, before = file.data("token_embd.weight"), file.data("token_embd.weight").copy()
        tokens = file.metadata["tokenizer.ggml.tokens"]
    np.testing.assert_array_equal(view, before)
    with pytest.raises(ValueError, match="is closed"):
        file.data("token_embd.weight")
    assert tokens[0] == "<unk>"  # type: ignore[index]


def test_prefetch_is_only_a_hint(tiny_llama: Path) -> None:
    with GGUFFile(tiny_llama) as file:
        file.prefetch()
        assert file.data("token_embd.weight").any()
    with pytest.raises(ValueError, match="is closed"):
        file.data("token_embd.weight")


def test_a_prefetch_ends_with_its_file(tiny_llama: Path) -> None:
    before = threading.active_count()
    for _ in range(20):
        with GGUFFile(tiny_llama) as file:
            file.prefetch()
        file.close()
    assert threading.active_count() <= before


def test_what_does_not_fit_memory_is_not_prefetched(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()._replace(available=tiny_llama.stat().st_size - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    before = threading.enumerate()
    with GGUFFile(tiny_llama) as file:
        file.prefetch()
        assert threading.enumerate() == before


def test_many_strings_of_any_length_and_content_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    short = [rng.bytes(rng.integers(1, 12)) for _ in range(6_000)]
    # what is not found at a glance: lengths of two bytes, of none, contents that look like lengths
    odd = [bytes(300), b"", b"x" * 256, b"\x01" + bytes(7) + b"y", bytes(8), b"z" * 3_000]
    large = [b"z" * 300_000]
    raw = short[:3_000] + odd + short[3_000:] + large + odd * 400 + short[:2_500]
    write_gguf(tmp_path / "m.gguf", METADATA | {"words": raw}, [])
    with GGUFFile(tmp_path / "m.gguf") as file:
        words = file.metadata["words"]
    assert isinstance(words, StringArray)
    assert [words.raw(i) for i in range(len(words))] == raw


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"missing\.gguf: cannot be opened"):
        GGUFFile(tmp_path / "missing.gguf")


def test_strings_are_decoded_when_asked_for(tmp_path: Path) -> None:
    raw = [b"one", b"", "zwölf".encode(), b"\xff\xfe"]
    write_gguf(tmp_path / "m.gguf", METADATA | {"words": raw}, [])
    with GGUFFile(tmp_path / "m.gguf") as file:
        words = file.metadata["words"]
    assert isinstance(words, StringArray)
    assert len(words) == 4
    assert words[2] == "zwölf"
    assert words[-3] == ""
    assert words[:3] == ["one", "", "zwölf"]
    assert [words.raw(i) for i in range(4)] == raw
    with pytest.raises(ModelFormatError, match="'words': string 3 is not UTF-8"):
        words[3]
    with pytest.raises(IndexError):
        words[4]


def test_a_vocabulary_of_128k_opens_in_well_under_half_a_second(tmp_path: Path) -> None:
    tokens = [f"token{i}" for i in range(128_256)]
    merges = [f"left{i} right{i}" for i in range(280_147)]
    kinds = np.ones(len(tokens), np.int32)
    keys = {"tokens": tokens, "merges": merges, "token_type": kinds}
    write_gguf(tmp_path / "m.gguf", METADATA | keys, [])

    def seconds() -> float:
        start = time.process_time()
        GGUFFile(tmp_path / "m.gguf").close()
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 0.5  # 0.1 on two slow cores
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert list(file.metadata["tokens"]) == tokens  # type: ignore[arg-type]
        assert file.metadata["merges"][-1] == merges[-1]  # type: ignore[index]


# --- split models


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A model of five tensors in three files, split by gguf-py."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    writer.add_string("general.name", "split")
    for i in range(5):
        writer.add_tensor(f"t{i}", WEIGHTS + np.float32(i))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [tmp_path / f"m-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]


def test_a_split_model_reads_as_one(parts: list[Path]) -> None:
    with GGUFFile(parts[0]) as file:
        assert file.metadata["general.name"] == "split"
        assert [info.part for info in file.tensors.values()] == [0, 0, 1, 1, 2]
        for i in range(5):
            np.testing.assert_array_equal(file.data(f"t{i}").view("f4"), WEIGHTS + np.float32(i))


def test_another_part_names_the_first(parts: list[Path]) -> None:
    with pytest.raises(ModelFormatError, match=r"part 2 .* open the first part, m-00001-of-00003"):
        GGUFFile(parts[1])


def test_missing_parts_are_listed(parts: list[Path]) -> None:
    parts[1].unlink()
    parts[2].unlink()
    with pytest.raises(ModelFormatError, match="2 of 3 parts are missing: m-00002-of-00003"):
        GGUFFile(parts[0])


def test_a_renamed_part_is_told_how_it_must_be_named(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="is one of 3 parts, but is not named"):
        GGUFFile(parts[0].rename(tmp_path / "renamed.gguf"))


def test_a_name_that_promises_another_number_of_parts_is_refused(parts: list[Path]) -> None:
    wrong = parts[0].rename(parts[0].with_name("m-00001-of-00002.gguf"))
    with pytest.raises(ModelFormatError, match=r"split\.count is 3, the file's name says 2"):
        GGUFFile(wrong)


def test_swapped_parts_are_refused(parts: list[Path]) -> None:
    os.replace(parts[2], parts[1])
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(ModelFormatError, match=r"says it is part 2 \(from 0\) of 3, expected 1"):
        GGUFFile(parts[0])


def test_a_truncated_part_is_named(parts: list[Path]) -> None:
    os.truncate(parts[2], parts[2].stat().st_size - 64)
    with pytest.raises(ModelFormatError, match=r"m-00003-of-00003.gguf: .*incomplete"):
        GGUFFile(parts[0])


@pytest.mark.parametrize("count", [None, np.array([3, 3], np.uint16), "3", np.uint16(4)])
def test_a_part_that_does_not_know_the_others_is_refused(parts: list[Path], count: Any) -> None:
    keys = METADATA | {"split.no": np.uint16(1)} | ({} if count is None else {"split.count": count})
    write_gguf(parts[1], keys, [tensor("t2"), tensor("t3")])
    with pytest.raises(ModelFormatError, match=r"says it is part 1 \(from 0\) of"):
        GGUFFile(parts[0])


def test_one_file_named_as_part_one_of_one_needs_no_keys(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m-00001-of-00001.gguf", METADATA, [tensor()])
    with GGUFFile(tmp_path / "m-00001-of-00001.gguf") as file:
        assert list(file.tensors) == ["w"]


def test_parts_of_two_models_are_refused(parts: list[Path]) -> None:
    other = {"split.no": np.uint16(2), "split.count": np.uint16(3)}
    write_gguf(parts[2], METADATA | other, [tensor("x"), tensor("y")])
    with pytest.raises(ModelFormatError, match="not of one model"):
        GGUFFile(parts[0])
    write_gguf(parts[2], METADATA | other, [tensor("t0")])
    with pytest.raises(ModelFormatError, match="tensor 't0' is in an earlier part as well"):
        GGUFFile(parts[0])


# --- writing


def test_the_file_is_the_one_gguf_py_writes(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    words, numbers = ["a", "", "🦙"], np.arange(7, dtype=np.float32)
    metadata = METADATA | {
        "count": 7,
        "negative": -7,
        "large": 2**40,
        "real": 0.25,
        "flag": False,
        "short": np.uint16(9),
        "double": np.float64(0.1),
        "text": "grüße",
        "words": words,
        "numbers": numbers,
        "nothing": [],
    }
    write_gguf(ours, metadata, [tensor("w", "Q4_0"), tensor("v", "F32", WEIGHTS[0, :5])])

    writer = gguf.GGUFWriter(theirs, "llama")
    writer.add_uint32("count", 7)
    writer.add_int32("negative", -7)
    writer.add_uint64("large", 2**40)
    writer.add_float32("real", 0.25)
    writer.add_bool("flag", False)
    writer.add_uint16("short", 9)
    writer.add_float64("double", 0.1)
    writer.add_string("text", "grüße")
    writer.add_array("words", words)
    writer.add_array("numbers", numbers.tolist())
    packed = gguf.quants.quantize(WEIGHTS, gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("w", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("v", WEIGHTS[0, :5])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert ours.read_bytes() == theirs.read_bytes()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    keys = {"general.alignment": 256, "list": np.array([1, 2], np.uint8)}
    write_gguf(tmp_path / "m.gguf", METADATA | keys, [tensor("a"), tensor("b", "F16")])
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert file.metadata.keys() == METADATA.keys() | keys.keys()
        assert all(info.offset % 256 == 0 for info in file.tensors.values())
        np.testing.assert_array_equal(file.data("a"), quantize(WEIGHTS, "Q8_0"))
        np.testing.assert_array_equal(
            dequantize(file.data("b"), "F16"), WEIGHTS.astype(np.float16).astype(np.float32)
        )


def test_progress_adds_up_to_the_bytes_of_the_tensors(tmp_path: Path) -> None:
    steps: list[int] = []
    write_gguf(tmp_path / "m.gguf", METADATA, [tensor("a"), tensor("b")], progress=steps.append)
    assert steps == [68] * 12  # 64 columns in Q8_0, twice six rows


# --- the file is whole or not there


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A model file that already exists; whatever fails, it must be as it was, and alone."""
    path = tmp_path / "m.gguf"
    write_gguf(path, METADATA | {"general.name": "old"}, [tensor()])
    before = path.read_bytes()
    yield path
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.gguf"]


def failing(error: BaseException) -> TensorToWrite:
    """A tensor whose second row cannot be made."""

    def blocks() -> Iterator[npt.NDArray[np.uint8]]:
        yield quantize(WEIGHTS[:1], "Q8_0")
        raise error

    return TensorToWrite("w", WEIGHTS.shape, find_format("Q8_0"), blocks)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "source"), ValueError()])
def test_an_error_of_the_source_passes_through(target: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        write_gguf(target, METADATA, [failing(error)])
    assert caught.value is error


@pytest.mark.parametrize("rows", [0, 5, 7])
def test_blocks_that_are_not_the_tensor_are_refused(target: Path, rows: int) -> None:
    packed = quantize(np.resize(WEIGHTS, (rows, 64)), "Q8_0")
    wrong = TensorToWrite("w", (6, 64), find_format("Q8_0"), lambda: iter(packed))
    with pytest.raises(ValueError, match="w: the blocks do not make up its 408 bytes"):
        write_gguf(target, METADATA, [wrong])


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits on Windows")
def test_a_disk_that_ends_after_any_number_of_bytes(target: Path) -> None:
    """The kernel itself refuses the write that passes the limit, from byte 0 to the last."""
    import resource

    size = target.stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, size, 7):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(ResourceError, match="cannot be written: File too large"):
                write_gguf(target, METADATA | {"general.name": "new"}, [tensor()])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert os.listdir(target.parent) == ["m.gguf"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end(
    target: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, operation, fail)
    with pytest.raises(ResourceError, match=r"m\.gguf: cannot be written: Input/output error"):
        write_gguf(target, METADATA, [tensor()])


def test_more_than_the_disk_holds_is_refused_at_once(target: Path) -> None:
    huge = TensorToWrite("w", (2**40, 64), find_format("F32"), lambda: iter(()))
    with pytest.raises(ResourceError, match=r"281,474,976,710,\d+ bytes are needed, [\d,]+ are fr"):
        write_gguf(target, METADATA, [huge])


def test_the_input_is_not_written_over(target: Path) -> None:
    with pytest.raises(InvalidRequest, match="is what is being read"):
        write_gguf(target, METADATA, [tensor()], inputs=["elsewhere", target])


def test_folders_and_devices_are_not_targets(tmp_path: Path) -> None:
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(InvalidRequest):
            write_gguf(path, METADATA, [])
    with pytest.raises(InvalidRequest, match="does not exist"):
        write_gguf(tmp_path / "none" / "m.gguf", METADATA, [])


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.gguf").symlink_to(tmp_path / "real.gguf")
    write_gguf(tmp_path / "link.gguf", METADATA, [tensor()])
    assert (tmp_path / "link.gguf").is_symlink()
    with GGUFFile(tmp_path / "real.gguf") as file:
        assert list(file.tensors) == ["w"]


def test_what_a_dead_writer_left_is_swept(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (tmp_path / f"m.gguf.partial-{child.pid}").touch()
    # An old file with the number of a process that lives, but did not then.
    (tmp_path / f"m.gguf.partial-{os.getpid()}").touch()
    os.utime(tmp_path / f"m.gguf.partial-{os.getpid()}", (0, 0))
    (tmp_path / "other.gguf.partial-1").touch()
    write_gguf(tmp_path / "m.gguf", METADATA, [tensor()])
    assert sorted(os.listdir(tmp_path)) == ["m.gguf", "other.gguf.partial-1"]


def test_a_second_writer_of_the_same_file_is_refused(tmp_path: Path) -> None:
    def blocks() -> Iterator[npt.NDArray[np.uint8]]:
        with pytest.raises(ResourceError, match=f"written by process {os.getpid()}"):
            write_gguf(tmp_path / "m.gguf", METADATA, [tensor("second")])
        yield quantize(WEIGHTS, "Q8_0")

    first = TensorToWrite("first", WEIGHTS.shape, find_format("Q8_0"), blocks)
    write_gguf(tmp_path / "m.gguf", METADATA, [first])
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert list(file.tensors) == ["first"]


WRITE_FOR_EVER = """
import sys
import numpy as np
from edgellama.gguf import TensorToWrite, write_gguf
from edgellama.quant import find_format
f32 = find_format("F32")
for i in range(10**9):
    row = np.full((1, 4096), i, np.float32).view(np.uint8)
    tensors = [TensorToWrite("w", (64, 4096), f32, lambda: iter([row] * 64))]
    write_gguf(sys.argv[1], {"general.architecture": "llama", "number": i}, tensors)
    print(i, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_writer_leaves_the_file_before_or_the_file_after(tmp_path: Path) -> None:
    path, rng = tmp_path / "m.gguf", np.random.default_rng(0)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(path)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
        with GGUFFile(path) as file:
            assert (file.data("w").view(np.float32) == file.metadata["number"]).all()
    write_gguf(path, METADATA, [tensor()])
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_reading_does_not_import_the_gguf_package(tiny_llama: Path) -> None:
    """It costs a fifth of a second, which no command that only reads should wait for."""
    program = "import sys; from edgellama.gguf import GGUFFile; GGUFFile(sys.argv[1]); "
    program += "sys.exit('gguf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program, str(tiny_llama)]).returncode == 0
