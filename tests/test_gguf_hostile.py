"""GGUF files that are not what they say: each gives one ModelFormatError and costs nothing.

The kinds are those of llama.cpp's test-gguf and of the advisories on readers of this format:
lengths and counts that wrap, tensors past the end or over each other, names twice, files cut short.
"""

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgellama.config import ModelConfig
from edgellama.errors import EdgellamaError, ModelFormatError
from edgellama.gguf import GGUFFile, StringArray
from edgellama.quant import FORMATS
from edgellama.weights import load_weights

U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10
BOUNDARIES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 16, 2**64 - 1]


def string(text: str | bytes, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


def tensor(
    name: str = "t",
    dims: tuple[int, ...] = (32,),
    kind: int = 0,
    offset: int = 0,
    n_dims: int | None = None,
) -> bytes:
    n = len(dims) if n_dims is None else n_dims
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", n, *dims, kind, offset)


def gguf(
    *keys: bytes,
    tensors: tuple[bytes, ...] = (),
    data: int = 1024,
    magic: bytes = b"GGUF",
    version: bytes = b"\3\0\0\0",
    n_keys: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    """A file of these keys and tensors and `data` bytes of zeros; counts true unless given."""
    counts = struct.pack(
        "<QQ",
        len(tensors) if n_tensors is None else n_tensors,
        len(keys) if n_keys is None else n_keys,
    )
    head = magic + version + counts + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


BIG = 2**64 - 1
HOSTILE: dict[str, tuple[bytes, str]] = {
    # not GGUF at all
    "empty": (b"", "is empty"),
    "three bytes": (b"GGU", "begins with b'GGU'"),
    "bad magic": (gguf(magic=b"GGUX"), "begins with b'GGUX"),
    "git-LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "git lfs pull",
    ),
    "web page": (b"\n<!DOCTYPE html><html>", "looks like a web page"),
    "JSON": (b'{"model_type": "llama"}', "looks like JSON"),
    "safetensors": (struct.pack("<Q", 32) + b'{"w":{"dtype":"F16"}}', "safetensors"),
    "zip": (b"PK\x03\x04" + bytes(60), r"\.pth"),
    "pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", r"\.pth"),
    "gzip": (b"\x1f\x8b\x08" + bytes(60), "gzip"),
    "GGML": (b"lmgg" + bytes(60), "format before GGUF"),
    # the header
    "only the magic": (b"GGUF", "damaged or its download incomplete"),
    "version 0": (gguf(version=b"\0\0\0\0"), "version 0; supported are 2 and 3"),
    "version 1": (gguf(version=b"\1\0\0\0"), "version 1; supported are 2 and 3"),
    "version 4": (gguf(version=b"\4\0\0\0"), "version 4; supported are 2 and 3"),
    "big-endian": (gguf(version=b"\0\0\0\3"), "big-endian"),
    "2^63 keys": (gguf(n_keys=2**63), "metadata keys announced"),
    "-1 keys": (gguf(n_keys=BIG), "metadata keys announced"),
    "one key too many": (gguf(n_keys=1, data=0), "download incomplete|empty or too long"),
    "2^63 tensors": (gguf(n_tensors=2**63), "tensors announced"),
    "-1 tensors": (gguf(n_tensors=BIG), "tensors announced"),
    # keys and values
    "empty key": (gguf(key("", U8, b"\0")), "name of a metadata key is empty or too long"),
    "long key": (gguf(key("k" * 65536, U8, b"\0")), "empty or too long"),
    "key of 2^64-1 bytes": (gguf(string("k", BIG)), "name of a metadata key needs"),
    "key not UTF-8": (gguf(key(b"\xff\xfe", U8, b"\0")), "is not UTF-8"),
    "key twice": (gguf(key("k", U8, b"\0"), key("k", U8, b"\0")), "'k' appears twice"),
    "value type 13": (gguf(key("k", 13, b"\0")), "value type 13"),
    "value type 2^32-1": (gguf(key("k", 2**32 - 1, b"\0")), "value type 4294967295"),
    "bool 2": (gguf(key("k", BOOL, b"\2")), "type bool, but not 0 or 1"),
    "string value of 2^64-1": (gguf(key("k", STRING, string("v", BIG))), "value of 'k' needs"),
    "string value not UTF-8": (gguf(key("k", STRING, string(b"\xff"))), "is not UTF-8"),
    "array of arrays": (gguf(key("k", ARRAY, array(ARRAY, 1))), "array of value type 9"),
    "array of type 99": (gguf(key("k", ARRAY, array(99, 1))), "array of value type 99"),
    "array of 2^64-1 bytes": (gguf(key("k", ARRAY, array(U8, BIG))), "value of 'k' needs"),
    "array wrapping 2^64": (gguf(key("k", ARRAY, array(U64, 2**61))), "value of 'k' needs"),
    "array of 2^30": (gguf(key("k", ARRAY, array(U32, 2**30))), "value of 'k' needs"),
    "2^61 strings": (gguf(key("k", ARRAY, array(STRING, 2**61))), "value of 'k' needs"),
    "string in array of 2^64-8": (
        gguf(key("k", ARRAY, array(STRING, 2, string("a") + string("b", 2**64 - 8)))),
        "string 1 of 'k' ends behind the file",
    ),
    "bool array with a 3": (gguf(key("k", ARRAY, array(BOOL, 2, b"\1\3"))), "not 0 or 1"),
    "alignment 0": (gguf(key("general.alignment", U32, struct.pack("<I", 0))), "alignment is 0"),
    "alignment 3": (gguf(key("general.alignment", U32, struct.pack("<I", 3))), "power of two"),
    "alignment 2^31": (gguf(key("general.alignment", U32, struct.pack("<I", 2**31))), "power of"),
    "alignment text": (gguf(key("general.alignment", STRING, string("32"))), "alignment is '32'"),
    "alignment true": (gguf(key("general.alignment", BOOL, b"\1")), "alignment is True"),
    # tensors
    "empty tensor name": (gguf(tensors=(tensor(""),)), "name of a tensor is empty"),
    "tensor twice": (gguf(tensors=(tensor(), tensor(offset=128))), "'t' appears twice"),
    "no dimensions": (gguf(tensors=(tensor(dims=()),)), "has 0 dimensions"),
    "five dimensions": (gguf(tensors=(tensor(dims=(1,) * 5),)), "has 5 dimensions"),
    "2^32-1 dimensions": (gguf(tensors=(tensor(n_dims=2**32 - 1),)), "has 4294967295 dim"),
    "dimension 0": (gguf(tensors=(tensor(dims=(32, 0)),)), "has the shape"),
    "dimension -1": (gguf(tensors=(tensor(dims=(32, BIG)),)), "has the shape"),
    "product wraps to 0": (gguf(tensors=(tensor(dims=(2**32, 2**32)),)), "bytes announced"),
    "product wraps to 128": (gguf(tensors=(tensor(dims=(2**40, 2**40, 32)),)), "bytes announced"),
    "padding wraps": (gguf(tensors=(tensor(offset=2**64 - 32),)), "bytes announced"),
    "past the end": (gguf(tensors=(tensor(dims=(257,)),)), "download is incomplete"),
    "offset past the end": (gguf(tensors=(tensor(offset=1024),)), "download is incomplete"),
    "unaligned": (gguf(tensors=(tensor(offset=8),)), "not a multiple of the alignment"),
    "overlapping": (gguf(tensors=(tensor("a"), tensor("b", offset=96))), "'a' and 'b' overlap"),
    "same place": (gguf(tensors=(tensor("a"), tensor("b"))), "'a' and 'b' overlap"),
    "half a block": (gguf(tensors=(tensor(dims=(33,), kind=8),)), "Q8_0 block size 32"),
    "type 2^32-1": (gguf(tensors=(tensor(kind=2**32 - 1),)), "none of F32, F16, BF16"),
    "terminal codes in a name": (gguf(tensors=(tensor("\x1b[2J", kind=77),)), r"\\x1b\[2J"),
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(("content", "words"), HOSTILE.values(), ids=HOSTILE)
def test_is_refused_in_one_line(write: Callable[[bytes], Path], content: bytes, words: str) -> None:
    path = write(content)
    with pytest.raises(ModelFormatError, match=words) as caught:
        GGUFFile(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_builder_makes_a_file_that_opens(write: Callable[[bytes], Path]) -> None:
    """The corpus above is refused for its faults, not for how it is built."""
    content = gguf(
        key("k", U32, struct.pack("<I", 7)),
        key("s", ARRAY, array(STRING, 2, string("a") + string(""))),
        tensors=(tensor("a"), tensor("b", dims=(32, 2), kind=8, offset=128)),
    )
    with GGUFFile(write(content)) as file:
        assert file.metadata["k"] == 7
        assert list(file.metadata["s"]) == ["a", ""]  # type: ignore[arg-type]
        assert file.tensors["b"].shape == (2, 32)


@pytest.mark.parametrize("kind", range(101))
def test_every_tensor_type_is_run_or_refused_by_name(
    write: Callable[[bytes], Path], kind: int
) -> None:
    from gguf import GGMLQuantizationType

    path = write(gguf(tensors=(tensor(dims=(256,), kind=kind),), data=4096))
    if kind in {format.ggml_type for format in FORMATS}:
        with GGUFFile(path) as file:
            assert file.tensors["t"].format.ggml_type == kind
        return
    with pytest.raises(ModelFormatError, match="F32, F16, BF16, ") as caught:
        GGUFFile(path)
    if kind in set(GGMLQuantizationType):
        assert f"is of type {GGMLQuantizationType(kind).name};" in str(caught.value)


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_cut_at_any_byte_is_refused(
    write: Callable[[bytes], Path],
    write_tiny_llama: Callable[..., Path],
    tmp_path: Path,
    version: int,
) -> None:
    vocabulary = {
        "tokenizer.ggml.tokens": [f"token {i}" for i in range(8)],
        "tokenizer.ggml.scores": None,
        "tokenizer.ggml.token_type": None,
    }
    path = write_tiny_llama(tmp_path / "whole.gguf", n_layers=1, vocab_size=8, metadata=vocabulary)
    whole = bytearray(path.read_bytes())
    whole[4] = version
    with GGUFFile(write(bytes(whole))) as file:
        data_start = min(info.offset for info in file.tensors.values())
        last = max(info.offset + info.n_bytes for info in file.tensors.values())
    rng = random.Random(0)
    cuts = [*range(data_start), *(rng.randrange(data_start, last) for _ in range(50)), last - 1]
    path = tmp_path / "model.gguf"
    # Cut from behind: one file, shortened byte by byte.
    for size in sorted(cuts, reverse=True):
        os.truncate(path, size)
        with pytest.raises(ModelFormatError):
            GGUFFile(path)


def open_and_load(path: Path) -> None:
    """What any command does with a model file, up to the first kernel."""
    with GGUFFile(path) as file:
        for value in file.metadata.values():
            if isinstance(value, StringArray):
                list(value[:10])
        for name in file.tensors:
            file.data(name).sum()
        load_weights(file, ModelConfig.from_gguf(file))


def test_mutated_files_raise_only_errors_of_ours(
    tmp_path: Path, write_tiny_llama: Callable[..., Path]
) -> None:
    whole = write_tiny_llama(
        tmp_path / "whole.gguf", n_layers=1, dim=32, hidden_dim=32
    ).read_bytes()
    with GGUFFile(tmp_path / "whole.gguf") as file:
        header = min(info.offset for info in file.tensors.values())
    rng = random.Random(0)
    path, refused = tmp_path / "mutant.gguf", 0
    path.write_bytes(whole)
    for _ in range(1500):
        mutant = bytearray(whole[:header])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(4, header)
            new = rng.choice([rng.randbytes(1), b"\0", b"\xff" * 8, struct.pack("<Q", 2**63)])
            mutant[at : at + len(new)] = new
        with open(path, "r+b") as file_:
            file_.write(mutant[:header])
        try:
            open_and_load(path)
        except EdgellamaError:
            refused += 1
    assert refused > 500  # most header bytes matter


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    n_tensors=st.sampled_from([1, *BOUNDARIES]),
    n_keys=st.sampled_from([2, *BOUNDARIES]),
    length=st.sampled_from([1, *BOUNDARIES]),
    count=st.sampled_from([2, *BOUNDARIES]),
    dim=st.sampled_from([32, *BOUNDARIES]),
    offset=st.sampled_from([0, *BOUNDARIES]),
)
def test_boundary_numbers_in_every_field(
    tmp_path_factory: pytest.TempPathFactory, **fields: int
) -> None:
    content = gguf(
        key("s", STRING, string("v", fields["length"])),
        key("a", ARRAY, array(U32, fields["count"], bytes(8))),
        tensors=(tensor(dims=(fields["dim"], 2), offset=fields["offset"]),),
        n_keys=fields["n_keys"],
        n_tensors=fields["n_tensors"],
    )
    path = tmp_path_factory.getbasetemp() / "boundary.gguf"
    path.write_bytes(content)
    try:
        file = GGUFFile(path)
    except ModelFormatError:
        return
    # Small numbers can be legal as well, as 0 tensors are; what is left must lie in the file.
    with file:
        for name in file.tensors:
            file.data(name).sum()
        assert all(len(value) <= len(content) for value in file.metadata.values())  # type: ignore[arg-type]


HPARAM_VALUES: list[Any] = [0, 1, 3, -1, 2**31, 2**32 - 1, 2**63, 0.0, -1.0, float("nan")]
HPARAM_VALUES += [float("inf"), 1e30, True, False, "", "linear", np.arange(3, dtype=np.int32)]


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_absurd_hyper_parameters_raise_only_errors_of_ours(
    tmp_path_factory: pytest.TempPathFactory,
    write_tiny_llama: Callable[..., Path],
    data: st.DataObject,
) -> None:
    names = [
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.type",
        "rope.scaling.factor",
        "context_length",
        "vocab_size",
    ]
    changes = {
        f"llama.{name}": data.draw(st.sampled_from(HPARAM_VALUES))
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
    }
    path = tmp_path_factory.getbasetemp() / "absurd.gguf"
    write_tiny_llama(path, n_layers=1, dim=32, hidden_dim=32, metadata=changes)
    with suppress(EdgellamaError):
        open_and_load(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits on Windows")
@pytest.mark.parametrize("name", ["2^63 keys", "array of 2^30", "2^61 strings", "2^63 tensors"])
def test_is_refused_in_little_memory(write: Callable[[bytes], Path], name: str) -> None:
    path = write(HOSTILE[name][0])
    program = """
import resource, sys
from edgellama.errors import ModelFormatError
from edgellama.gguf import GGUFFile
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
try:
    GGUFFile(sys.argv[1])
except ModelFormatError:
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.exit(0 if grown < (16 << 20 if sys.platform == "darwin" else 16 << 10) else 3)
"""
    assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelFormatError, match="is a directory or device"):
        GGUFFile(tmp_path / "pipe.gguf")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="is a directory or device"):
        GGUFFile(tmp_path)


def test_an_escape_sequence_from_the_file_never_reaches_the_terminal(
    write: Callable[[bytes], Path],
) -> None:
    content = gguf(key("\x1b]0;owned\x07" * 40, 99, b""))
    with pytest.raises(ModelFormatError) as caught:
        GGUFFile(write(content))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
