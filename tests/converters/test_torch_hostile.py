"""Torch files that lie, bomb or want to run code: each is refused, at once, and nothing happens.

All of them are opened in one separate process, which records by Python's audit hook whatever is
opened, imported or executed there.
"""

import json
import os
import random
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellama.converters.torch_file import open_torch
from edgellama.converters.torch_pickle import MAX_OPCODES, PickleReader
from edgellama.errors import CheckpointRefused

Case = tuple[bytes, str]  # a file, and what its refusal says

WITNESS = """
import json, sys, time
from pathlib import Path
from edgellama.converters.torch_file import open_torch
from edgellama.errors import CheckpointRefused
try:
    import resource
except ImportError:
    peak_bytes = lambda: None
else:
    unit = 1 if sys.platform == "darwin" else 1024
    peak_bytes = lambda: unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def refusal(path):
    try:
        open_torch(path)
    except CheckpointRefused as error:
        return str(error)
    except BaseException as error:
        return f"not refused but {error!r}"
    return "not refused"

files, warm_up, results, events = sorted(Path(sys.argv[1]).iterdir()), Path(sys.argv[2]), {}, None
refusal(warm_up)
def witness(event, arguments):
    if events is not None:
        events.append((event, str(arguments[0])))

sys.addaudithook(witness)
for path in files:
    before, start, events = peak_bytes(), time.process_time(), []
    text = refusal(path)
    seen, events = events, None
    seconds = time.process_time() - start
    grown = before and peak_bytes() - before
    results[path.name] = dict(text=text, events=seen, seconds=seconds, grown=grown)
print(json.dumps(results))
"""


def programs(w: Any) -> dict[str, Case]:
    """Pickles that want more than tensors, or are none."""
    empty = w.tuple_of()
    unlisted = {
        "os": ("os", "system"),
        "posix": ("posix", "system"),
        "eval": ("builtins", "eval"),
        "getattr": ("builtins", "getattr"),
        "python 2": ("__builtin__", "eval"),
        "import": ("importlib", "import_module"),
        "load": ("torch", "load"),
        "private": ("torch._utils", "_import_dotted_name"),
        "sparse": ("torch._utils", "_rebuild_sparse_tensor"),
        "quantized": ("torch._utils", "_rebuild_qtensor"),
        "complex": ("torch", "ComplexFloatStorage"),
        "module": ("torch.nn.modules.linear", "Linear"),
        "known name of another module": ("posix", "OrderedDict"),
    }
    cases: dict[str, Case] = {
        f"global {key}": (
            w.call(module, name, w.text("touch canary")),
            f"wants to import {module}.{name},",
        )
        for key, (module, name) in unlisted.items()
    }
    opcodes = {
        "INST": b"(" + w.text("touch canary") + b"ios\nsystem\n",
        "OBJ": b"(" + w.name("collections", "OrderedDict") + b"o",
        "NEWOBJ": w.name("collections", "OrderedDict") + empty + b"\x81",
        "STACK_GLOBAL": w.text("os") + w.text("system") + b"\x93",
        "EXT1": b"\x82\x01",
        "PERSID": b"Pstorage\n",
        "DUP": b"}2",
        "LONG4": b"\x8b" + struct.pack("<i", 2**31 - 1),
        "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**33),
        "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**63),
        "FRAME": b"\x95" + struct.pack("<Q", 2**63),
        "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**40),
        "unknown": b"\xff",
    }
    cases |= {f"opcode {name}": (body, rf"\({name}\)") for name, body in opcodes.items()}
    storage = w.storage("0", 6)
    nested = empty + b"".join(b"\x86" if i % 2 else b"q\0h\0" for i in range(400))
    return cases | {
        "bomb of opcodes": (b"}" * (MAX_OPCODES + 1), f"more than {MAX_OPCODES:,} opcodes"),
        "bomb of lists": (b"]" * (4 << 20), "at most 4,194,304 are read|more than"),
        "bomb of memo": (b"N" + b"r\xff\xff\xff\x07" * 400_000, "opcodes"),
        "deep tuples": (b"N" + b"\x85" * (MAX_OPCODES - 10), "dictionary of tensors"),
        "deep lists": (b"]" * 100_000 + b"a" * 99_999, "dictionary of tensors"),
        "deep dictionaries": (
            (b"}" + w.text("k")) * 50_000 + b"N" + b"s" * 50_000,
            "holds no tensors",
        ),
        "key of nested tuples": (b"}" + nested + b"Ns", "dictionary key of type tuple"),
        "long text": (b"X\xff\xff\xff\xff", "ends in the middle"),
        "long integer": (b"\x8a\xff" + bytes(255), "integer of 255 bytes"),
        "text not UTF-8": (b"X\1\0\0\0\xff", "not UTF-8"),
        "endless name": (b"c" + b"a" * 100_000, "does not end"),
        "protocol": (b"\x80\x04}", "pickle protocol 4"),
        "empty stack": (b"0", "POP"),
        "take from nothing": (b"\x85", "empty stack"),
        "take beyond a mark": (b"N(\x85", "empty stack"),
        "no mark": (b"Nt", "mark never set"),
        "memo never kept": (b"h\x07", "memo 7"),
        "append to a dictionary": (b"}Na", "not a list"),
        "item of a list": (b"]NNs", "not a dictionary"),
        "odd items": (b"}(" + w.text("a") + b"u", "not a dictionary"),
        "name twice": (b"}(" + (w.text("a") + b"N") * 2 + b"u", "'a' twice"),
        "call a dictionary": (b"}" + empty + b"R", "a call that is none"),
        "call a storage type": (
            w.name("torch", "FloatStorage") + empty + b"R",
            "a call that is none",
        ),
        "call without a tuple": (
            w.name("collections", "OrderedDict") + b"]R",
            "a call that is none",
        ),
        "ordered dictionary of pairs": (w.call("collections", "OrderedDict", b"]"), "arguments"),
        "state of a list": (b"]}b", "state of a list"),
        "persistent id of a module": (w.text("module") + b"Q", "persistent id"),
        "persistent id, negative": (w.storage("0", -6), "persistent id"),
        "storage view": (w.storage("0", 6, view=w.tuple_of(w.text("1"))), "view of another"),
        "one key, two storages": (
            w.tuple_of(storage, w.storage("0", 6, "Half")),
            "described in two ways",
        ),
        "rebuild of nothing": (w.call("torch._utils", "_rebuild_tensor_v2"), "_rebuild_tensor_v2"),
        "parameter of nothing": (w.call("torch._utils", "_rebuild_parameter", b"NNN"), "_rebuild"),
        "no dictionary": (b"]", "a list where a dictionary"),
        "no tensors": (w.dictionary({"weights": b"}"}), "no tensors .* 'weights'"),
        "tensor under a number": (
            b"}" + w.integer(7) + w.tensor(storage, (2, 3), (3, 1)) + b"s",
            "by the number 7",
        ),
    }


def tensors(w: Any) -> dict[str, Case]:
    """Tensors that their storage of 6 float32 cannot hold."""
    huge = 2**62
    views: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, str]] = {
        "too long": ((7,), (1,), 0, "reaches beyond its 6 elements"),
        "offset": ((6,), (1,), 1, "reaches beyond"),
        "stride": ((2, 3), (4, 1), 0, "reaches beyond"),
        "far stride": ((2,), (huge,), 0, "reaches beyond"),
        "far offset": ((1,), (1,), huge, "reaches beyond"),
        "wraps 64 bits": ((2**33, 2**33), (0, 0), 0, "impossible shape"),
        "one element seen often": ((1000,), (0,), 0, "reaches beyond"),
        "nothing of an impossible shape": ((0, huge), (1, 1), 0, "impossible shape"),
        "negative stride": ((2, 3), (3, -1), 2, "negative"),
        "negative size": ((-2, 3), (3, 1), 0, "negative"),
        "negative offset": ((2, 3), (3, 1), -1, "negative"),
        "strides missing": ((2, 3), (1,), 0, "2 sizes and 1 strides"),
        "many axes": ((1,) * 9, (1,) * 9, 0, "9 sizes"),
    }
    storage = w.storage("0", 6)
    special = w.dictionary({"conj": b"\x88"})
    cases: dict[str, Case] = {
        f"view, {name}": (w.tensor(storage, shape, strides, offset), says)
        for name, (shape, strides, offset, says) in views.items()
    }
    cases["view, conjugate"] = (w.tensor(storage, (2,), (1,), 0, special), "conjugate")
    untyped = storage.replace(b"ctorch\nFloat", b"ctorch.storage\nUntyped")
    cases["view, untyped"] = (w.tensor(untyped, (2,), (1,)), "no dtype")
    return {
        name: (w.zip_file(w.dictionary({"w": body}), {"0": bytes(24)}), says)
        for name, (body, says) in cases.items()
    }


def archives(w: Any) -> dict[str, Case]:
    """Zip files that are damaged or contradict themselves."""
    body = w.dictionary({"w": w.tensor(w.storage("0", 6), (2, 3), (3, 1))})
    program = w.program(body)
    members = {"data.pkl": program, "data/0": bytes(range(24))}
    good = w.archive(members)
    start = good.index(b"PK\1\2")  # of the directory: entry of data.pkl, then of data/0
    second = good.index(b"PK\1\2", start + 1)
    local = good.index(b"PK\3\4", 1)  # of data/0
    renamed = w.archive(members | {"data/1": b""}).replace(b"data/1", b"data/0")

    def patched(at: int, layout: str, value: int, file: bytes = good) -> bytes:
        data = bytearray(file)
        struct.pack_into(layout, data, at, value)
        return bytes(data)

    return {
        "zip, empty": (w.archive({}), "is not a torch.save file|0 members data.pkl"),
        "zip, no pickle": (w.archive({"data/0": b""}), "0 members data.pkl"),
        "zip, two pickles": (w.archive({"data.pkl": program, "x/data.pkl": program}), "2 members"),
        "zip, deflated": (w.archive(members, zipfile.ZIP_DEFLATED), r"compressed \(method 8\)"),
        "zip, deflated in secret": (patched(local + 8, "<H", 8), "contradicts the directory"),
        "zip, encrypted": (patched(second + 8, "<H", 1), "is encrypted"),
        "zip, encrypted in secret": (patched(local + 6, "<H", 1), "is encrypted"),
        "zip, name twice": (renamed, "two members 'archive/data/0'"),
        "zip, other name": (patched(local + 30, "<B", 0x62), "contradicts the directory"),
        "zip, name not UTF-8": (patched(second + 46, "<B", 0xFF), "not UTF-8"),
        "zip, other size": (patched(local + 22, "<I", 23), "contradicts the directory"),
        "zip, sizes differ": (patched(second + 24, "<I", 25), "compressed"),
        "zip, member elsewhere": (patched(second + 42, "<I", 0), "contradicts the directory"),
        "zip, member beyond": (patched(second + 42, "<I", 2**31), "bytes expected at byte"),
        "zip, into the directory": (patched(local + 28, "<H", 9), "beyond the members' part"),
        "zip, zip64 missing": (patched(second + 42, "<I", 2**32 - 1), "lacks a zip64 field"),
        "zip, overlapping": (overlapping(program, w), "overlap"),
        "zip, more members": (
            patched(len(good) - 14, "<I", 3 << 16 | 3),
            "after 2 of 3|is misplaced",
        ),
        "zip, fewer members": (patched(len(good) - 14, "<I", 1 << 16 | 1), "follow the entries"),
        "zip, too many members": (patched(len(good) - 14, "<I", 20_000 << 16 | 20_000), "20,000 m"),
        "zip, zip64 size too large": (zip64_sized(good, second, 2**62), "contradicts the dir"),
        "zip64, locator elsewhere": (zip64_ended(good, locator_error=1), "points elsewhere"),
        "zip64, count contradicts": (zip64_ended(good, n_members=3), "contradicts its end"),
        "zip64, count of 2^63": (
            zip64_ended(patched(len(good) - 14, "<I", 2**32 - 1), n_members=2**63),
            "has 9,223,372,036,854,775,808 members",
        ),
        "zip64, directory elsewhere": (
            zip64_ended(patched(len(good) - 6, "<I", 2**32 - 1), offset=2**63),
            "misplaced",
        ),
        "zip, several disks": (patched(len(good) - 18, "<H", 1), "several disks"),
        "zip, directory elsewhere": (patched(len(good) - 6, "<I", 1), "misplaced"),
        "zip, appended": (good + b"x", "does not end with its directory"),
        "zip, prepended": (b"PK\3\4" + good, "misplaced"),
        "zip, short": (b"PK\3\4", "too short"),
        "zip, truncated": (good[:-1], "download is incomplete"),
        "zip, big-endian": (w.archive(members | {"byteorder": b"big"}), "big-endian"),
        "zip, pickle too big": (w.archive({"data.pkl": bytes(5 << 20)}), "at most 4,194,304"),
        "zip, bytes after the pickle": (w.archive({"data.pkl": program + b"x"}), "1 bytes follow"),
        "zip, storage missing": (w.archive({"data.pkl": program}), "'0' of tensor 'w' is missing"),
        "zip, storage short": (
            w.archive(members | {"data/0": bytes(23)}),
            "has 23 bytes, 24 announced",
        ),
        "zip, storage long": (w.archive(members | {"data/0": bytes(25)}), "has 25 bytes"),
    }


def zip64_sized(archive: bytes, entry: int, n_bytes: int) -> bytes:
    """`archive` whose directory entry at `entry`, its last, gives `n_bytes` in a zip64 field."""
    data = bytearray(archive)
    end = data.rindex(b"PK\5\6")
    struct.pack_into("<2I", data, entry + 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", data, entry + 30, 20)
    (n_directory,) = struct.unpack_from("<I", data, end + 12)
    struct.pack_into("<I", data, end + 12, n_directory + 20)
    return bytes(data[:end]) + struct.pack("<2H2Q", 1, 16, n_bytes, n_bytes) + bytes(data[end:])


def zip64_ended(
    archive: bytes, n_members: int = 2, offset: int | None = None, locator_error: int = 0
) -> bytes:
    """`archive` with the zip64 end record and locator that torch always writes."""
    at = archive.rindex(b"PK\5\6")
    start = archive.index(b"PK\1\2")
    where = start if offset is None else offset
    record = struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, 0, 0, 0, 0, n_members, n_members, at - start, where
    )
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, at + locator_error, 1)
    return archive[:at] + record + locator + archive[at:]


def overlapping(program: bytes, w: Any) -> bytes:
    """An archive whose member data/0 lies inside its member data/1, headers and all."""
    inner = w.archive({"data/0": bytes(24)})
    inner = inner[: inner.index(b"PK\1\2")]
    data = bytearray(w.archive({"data.pkl": program, "data/1": inner, "data/0": bytes(24)}))
    first = data.index(b"archive/data/1") + len(b"archive/data/1")
    entry = data.rindex(b"PK\1\2")
    struct.pack_into("<I", data, entry + 42, first)
    return bytes(data)


def legacies(w: Any) -> dict[str, Case]:
    """The form of before torch 1.6, with one thing wrong."""
    body = w.dictionary({"w": w.tensor(w.storage("0", 6, view=b"N"), (2, 3), (3, 1))})
    good = w.legacy_file(body, {"0": (6, bytes(24))})
    return {
        "legacy, big-endian": (good.replace(b"endian\x88", b"endian\x89"), "big-endian"),
        "legacy, protocol": (good.replace(struct.pack("<q", 1001), bytes(8)), "1001 expected"),
        "legacy, count": (w.legacy_file(body, {"0": (7, bytes(28))}), "has 7 elements"),
        "legacy, negative count": (w.legacy_file(body, {"0": (-1, b"")}), "has -1 elements"),
        "legacy, storage missing": (w.legacy_file(body, {}), "'0' of tensor 'w' is missing"),
        "legacy, storage of none": (w.legacy_file(body, {"9": (1, bytes(4))}), "that no tensor"),
        "legacy, truncated": (good[:-1], "at byte|incomplete"),
        "legacy, appended": (good + b"x", "incomplete or damaged"),
        "legacy, ends early": (good[: good.index(b"}(")], "ends in the middle"),
        "legacy, runs code": (
            w.legacy_file(w.call("os", "system", w.text("x")), {}),
            r"os\.system",
        ),
    }


def strangers() -> dict[str, Case]:
    """Files of other kinds under the name of a checkpoint."""
    tar = b"storages".ljust(257, b"\0") + b"ustar".ljust(255, b"\0")
    return {
        "other, empty": (b"", "but empty"),
        "other, LFS": (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
        "other, web page": (b"<!DOCTYPE html>", "web page"),
        "other, GGUF": (b"GGUF\3\0\0\0", "GGUF file"),
        "other, bare pickle": (b"\x80\x02}.", "Python pickle"),
        "other, tar": (tar, "save its state_dict again"),
        "other, noise": (b"\0\1\2\3", "no known format"),
    }


@pytest.fixture(scope="module")
def cases(torch_writer: Any) -> dict[str, Case]:
    w = torch_writer
    zipped = {name: (w.zip_file(body, {}), says) for name, (body, says) in programs(w).items()}
    return zipped | tensors(w) | archives(w) | legacies(w) | strangers()


@pytest.fixture(scope="module")
def reports(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened when each case was opened: text, events, seconds, grown (bytes)."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (data, _) in cases.items():
        (folder / name).write_bytes(data)
    warm_up = tmp_path_factory.mktemp("warm") / "up"
    warm_up.write_bytes(cases["zip, storage missing"][0])
    command = [sys.executable, "-c", WITNESS, str(folder), str(warm_up)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    reports = json.loads(output)
    assert reports.keys() == cases.keys()
    return {name: report | {"path": str(folder / name)} for name, report in reports.items()}


def test_each_is_refused_by_name_and_reason(
    cases: dict[str, Case], reports: dict[str, Any]
) -> None:
    for name, report in reports.items():
        assert report["text"].startswith(report["path"] + ": "), f"{name}: {report['text']}"
        assert re.search(cases[name][1], report["text"]), f"{name}: {report['text']}"
        assert "\n" not in report["text"]


def test_nothing_is_imported_executed_or_opened_besides(reports: dict[str, Any]) -> None:
    for name, report in reports.items():
        assert report["events"], "the witness saw nothing at all"
        strange = [event for event in report["events"] if event != ["open", report["path"]]]
        assert not strange, f"{name}: {strange}"


def test_none_takes_a_second_or_64_megabytes(reports: dict[str, Any]) -> None:
    for name, report in reports.items():
        assert report["seconds"] < 1, name
        assert (report["grown"] or 0) < 64 << 20, name


def test_a_file_cut_anywhere_is_refused(torch_writer: Any, tmp_path: Path) -> None:
    w, path = torch_writer, tmp_path / "m.pth"
    body = w.dictionary({"w": w.tensor(w.storage("0", 6, view=b"N"), (2, 3), (3, 1))})
    for data in (w.zip_file(body, {"0": bytes(24)}), w.legacy_file(body, {"0": (6, bytes(24))})):
        overwrite(path, data)
        assert open_torch(path)
        for n_bytes in range(len(data)):
            overwrite(path, data[:n_bytes])
            with pytest.raises(CheckpointRefused, match=r"m\.pth"):
                open_torch(path)


def test_what_is_no_file_is_refused_unopened(tmp_path: Path) -> None:
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.pth")  # opening it would wait for ever
        with pytest.raises(CheckpointRefused, match=r"pipe\.pth: is not a regular file"):
            open_torch(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointRefused, match="not a regular file"):
        open_torch(tmp_path)
    with pytest.raises(CheckpointRefused, match=r"cannot be opened: .*null"):
        open_torch("a\0b")
    with pytest.raises(CheckpointRefused, match="No such file"):
        open_torch(tmp_path / "none.pth")


def test_a_view_is_accepted_exactly_when_it_lies_inside(torch_writer: Any) -> None:
    """Against the plain definition: the set of all elements that the view touches."""
    w, rng = torch_writer, random.Random(0)
    n_accepted = 0
    for _ in range(500):
        n = rng.randrange(1, 13)
        shape = tuple(rng.randrange(1, 5) for _ in range(rng.randrange(4)))
        strides = tuple(rng.randrange(5) for _ in shape)
        offset = rng.randrange(14)
        steps = sum(np.ogrid[tuple(map(slice, shape))][a] * s for a, s in enumerate(strides))
        inside = np.max(offset + steps) < n and np.prod(shape, dtype=int) <= n
        program = w.program(w.tensor(w.storage("0", n), shape, strides, offset))
        reader = PickleReader(program, "m.pth")
        if inside:
            reader.read()
            n_accepted += 1
        else:
            with pytest.raises(CheckpointRefused, match="reaches beyond"):
                reader.read()
    assert n_accepted > 50


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_mutants_are_read_or_refused(form: str, torch_writer: Any, tmp_path: Path) -> None:
    """Of 2,000 files with a few bytes changed, each raises this one exception or none."""
    w, rng, path = torch_writer, random.Random(1), tmp_path / "m.pth"
    view = w.tensor(w.storage("0", 6, view=b"N"), (2, 3), (1, 2))
    parameter = w.call("torch._utils", "_rebuild_parameter", view, b"\x88", b"}")
    body = w.dictionary({"model": w.dictionary({"a": view, "b": parameter}), "step": w.integer(3)})
    good = {
        "zip": w.zip_file(body, {"0": bytes(range(24))}),
        "legacy": w.legacy_file(body, {"0": (6, bytes(range(24)))}),
    }[form]
    n_read = 0
    for _ in range(2000):
        overwrite(path, mutant(good, rng))
        try:
            for tensor in open_torch(path).values():
                tensor.rows(0, tensor.n_rows)
            n_read += 1
        except CheckpointRefused:
            pass
    assert 20 < n_read < 1500  # some change only values or names; most are seen


def overwrite(path: Path, data: bytes) -> None:
    """Write in place: ext4 flushes a file that is emptied first, which takes milliseconds."""
    path.touch()
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def mutant(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(changed))
        match rng.randrange(5):
            case 0:
                changed[at] = rng.randrange(256)
            case 1:
                changed[at] ^= 1 << rng.randrange(8)
            case 2:
                del changed[at : at + rng.randrange(1, 9)]
            case 3:
                changed[at:at] = changed[at : at + rng.randrange(1, 9)]
            case _:
                changed[at : at + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f")
                )
    return bytes(changed)
