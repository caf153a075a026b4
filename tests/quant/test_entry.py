"""Entries: compiled once, loaded without numba, shared; damaged files, full disks."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellama.quant import cache_folder, find_format
from edgellama.quant.entry import Entry, compile_entries
from edgellama.quant.jit import entry
from edgellama.quant.machine_code import MachineCode
from edgellama.team import dismiss, serve

DEADLINE = 300  # seconds, of which a process needs two
POSIX = pytest.mark.skipif(os.name == "nt", reason="owners and modes of files are POSIX")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for entries that are made from now on."""
    folder = tmp_path / "kernels" / "0123456789abcdef-avx2"
    folder.mkdir(parents=True)
    monkeypatch.setattr(cache_folder, "CACHE_FOLDER", folder)
    return folder


def fresh(entry: Entry = dismiss) -> Entry:
    """The same entry as a process sees it that has just begun."""
    return Entry(entry.module, entry.function_name)


def compiles(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether it had to be compiled, and works."""
    made: list[MachineCode] = []
    compile_ = entry.compile
    monkeypatch.setattr(entry, "compile", lambda: made.append(compile_()) or made[-1])
    assert works(entry)
    return bool(made)


def works(entry: Entry) -> bool:
    """Whether `dismiss` writes its turn where it should."""
    shared = np.zeros(64, np.int64)
    entry.call(shared.ctypes.data, 1, 7)
    return bool(shared[0] == 7)


def in_a_process(program: str, cache: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "EDGELLAMA_CACHE_DIR": str(cache)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_is_compiled_once_is_read_the_next_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = fresh()
    assert not entry.is_cached()
    assert compiles(entry, monkeypatch)
    assert entry.is_cached()
    again = fresh()
    assert again.is_cached()
    assert not compiles(again, monkeypatch)
    assert again._code == entry._code


def half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def one_bit_off(whole: bytes) -> bytes:
    return whole[:-100] + bytes([whole[-100] ^ 4]) + whole[-99:]


def of_another(whole: bytes) -> bytes:
    [path] = Path(fresh(serve).path).parent.glob("*serve.code")
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda _: b"\0" * 400, lambda _: b"no code", half, one_bit_off, of_another],
)
def test_a_damaged_file_is_compiled_again(
    folder: Path, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fresh(serve).address
    assert works(fresh())
    path = folder / "team_kernels.dismiss.code"
    path.write_bytes(damage(path.read_bytes()))
    assert compiles(fresh(), monkeypatch)
    assert not compiles(fresh(), monkeypatch)  # the damage is mended


def test_a_folder_that_vanishes_only_costs_the_cache(folder: Path) -> None:
    entry = fresh()
    folder.rmdir()
    assert works(entry)


@POSIX
def test_a_disk_that_is_full_only_costs_the_cache(folder: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))  # less than any kernel takes
        entry = fresh()
        assert works(entry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(folder.iterdir()) == []
    assert works(fresh())
    assert [path.name for path in folder.iterdir()] == ["team_kernels.dismiss.code"]


def test_only_entries_of_this_package_are_kept(folder: Path) -> None:
    @entry
    def stranger(x: int) -> None:
        pass

    stranger.call(1)
    assert list(folder.iterdir()) == []


def test_code_that_is_kept_gives_the_bits_of_code_just_compiled(folder: Path) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal(1 << 10).astype(np.float32)
    packed = []
    for _ in range(2):
        pack = fresh(find_format("Q4_0").products.pack)
        out = np.zeros(values.size // 32 * 18, np.uint8)
        pack.call(values.ctypes.data, values.size // 32, out.ctypes.data)
        packed.append(out.tobytes())
    assert packed[0] == packed[1] == find_format("Q4_0").quantize(values[None]).tobytes()


def test_a_second_start_imports_no_numba(tmp_path: Path) -> None:
    program = """
        import sys
        from edgellama import Llama
        with Llama(n_threads=2) as llama:
            print(llama.generate("Once upon a time", max_tokens=4, temperature=0).read().tokens)
        print("numba" in sys.modules, "edgellama.ops" in sys.modules)
    """
    first, second = (
        in_a_process(program, tmp_path).communicate(timeout=DEADLINE)[0].splitlines()
        for _ in range(2)
    )
    assert first[1] == "True True"
    assert second == [first[0], "False False"]


def test_two_processes_may_compile_at_once(tmp_path: Path) -> None:
    program = """
        import sys
        from edgellama.team import ENTRIES
        from edgellama.quant.entry import compile_entries

        print("ready", flush=True)
        sys.stdin.read()
        compile_entries(ENTRIES, None)
        print("numba" in sys.modules)
    """
    both = [in_a_process(program, tmp_path) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:  # they go on when their input ends
        process.stdin.close()
        process.stdin = None
    for process in both:
        _, err = process.communicate(timeout=DEADLINE)
        assert (process.returncode, err) == (0, "")
    [folder] = tmp_path.glob("kernels/*")
    assert sorted(path.name for path in folder.iterdir()) == [
        "team_kernels.dismiss.code",
        "team_kernels.lead.code",
        "team_kernels.serve.code",
    ]
    out, err = in_a_process(program, tmp_path).communicate(timeout=DEADLINE)
    assert (out, err) == ("ready\nFalse\n", "")


def test_without_a_folder_all_is_compiled_and_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_folder, "CACHE_FOLDER", None)
    monkeypatch.setattr(cache_folder, "CACHE_REFUSAL", "/x belongs to another user")
    said: list[str] = []
    entries = [fresh(dismiss), fresh(serve)]
    assert compile_entries([*entries, entries[0]], said.append) == 2
    assert said == [
        "kernels are compiled at every start, because /x belongs to another user;"
        " set EDGELLAMA_CACHE_DIR to a folder of your own",
        "compiling for this CPU: team_kernels.dismiss (1 of 2)",
        "compiling for this CPU: team_kernels.serve (2 of 2)",
    ]
    assert works(entries[0])
    assert compile_entries(entries, said.append) == 0
    assert len(said) == 3


def test_a_process_without_any_folder_begins_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    program = """
        from edgellama.quant.cache_folder import CACHE_FOLDER, CACHE_REFUSAL
        from edgellama.team import dismiss
        print(CACHE_FOLDER, CACHE_REFUSAL, dismiss.address > 0)
    """
    process = in_a_process(program, tmp_path / "file")
    out, err = process.communicate(timeout=DEADLINE)
    assert (out.startswith("None "), out.endswith(" True\n"), err) == (True, True, "")


def test_a_second_process_compiles_what_the_first_has_not_reached(tmp_path: Path) -> None:
    # the second is asked for two kernels; the first waits for their files, which it does not make
    program = """
        import time
        from edgellama.quant import find_format
        from edgellama.quant.second_compiler import second_compiler
        products = find_format("F32").products
        entries = [products.unpack, products.dot, products.unpack, products.dot]
        with second_compiler(entries):
            end = time.monotonic() + 240
            while time.monotonic() < end and not all(e.is_cached(on_disk=True) for e in entries):
                time.sleep(0.05)
        print([e.is_cached(on_disk=True) for e in entries])
    """
    process = in_a_process(program, tmp_path)
    out, err = process.communicate(timeout=DEADLINE)
    assert (out, err) == ("[True, True, True, True]\n", "")


def test_the_second_process_imports_nothing_from_the_working_folder(tmp_path: Path) -> None:
    # a folder with a model may hold any file, and the command itself does not look there either
    (tmp_path / "numba.py").write_text("open('imported', 'w')")
    program = f"""
        import os, sys, time
        sys.path = [each for each in sys.path if each]
        os.chdir({str(tmp_path)!r})
        from edgellama.quant import find_format
        from edgellama.quant.second_compiler import second_compiler
        entry = find_format("F32").products.unpack
        with second_compiler([entry] * 4):
            end = time.monotonic() + 240
            while time.monotonic() < end and not entry.is_cached(on_disk=True):
                time.sleep(0.05)
        print(entry.is_cached(on_disk=True), os.path.exists("imported"))
    """
    process = in_a_process(program, tmp_path / "cache")
    out, err = process.communicate(timeout=DEADLINE)
    assert (out, err) == ("True False\n", "")
