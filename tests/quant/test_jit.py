"""The folder of machine code: found, shared, refused, damaged, full."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numba
import numpy as np
import pytest

from edgellama.quant import find_format, jit
from edgellama.quant.jit import Entry, compile_entries
from edgellama.team import dismiss, serve

DEADLINE = 300  # seconds, of which a process needs two
POSIX = pytest.mark.skipif(os.name == "nt", reason="owners and modes of files are POSIX")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for entries that are made from now on."""
    monkeypatch.setattr(jit, "CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def fresh(entry: Entry = dismiss) -> Entry:
    """The same entry as a process sees it that has just begun."""
    return Entry(entry.function, len(entry.signature.args))


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


def test_what_is_compiled_once_is_read_the_next_time(folder: Path) -> None:
    entry = fresh()
    assert not entry.is_cached()
    assert works(entry)
    assert entry.is_cached()
    again = fresh()
    assert again.is_cached()
    assert works(again)
    assert again.compiled._cache_hits == 1


@pytest.mark.parametrize("damage", [b"", b"\0" * 400, b"no pickle", None])
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_file_is_compiled_again(folder: Path, kind: str, damage: bytes | None) -> None:
    assert works(fresh())
    [path] = folder.glob(f"*/*.{kind}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert works(fresh())
    after = fresh()
    assert works(after)
    assert after.compiled._cache_hits == 1  # and the damage is mended


def test_files_that_vanish_are_compiled_again(folder: Path) -> None:
    assert works(fresh())
    for path in folder.glob("*/*.nbc"):
        path.unlink()
    assert works(fresh())


@POSIX
def test_a_disk_that_is_full_only_costs_the_cache(folder: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))  # less than any kernel takes
        entry = fresh()
        assert works(entry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(folder.glob("*/*.nbc")) == []
    assert works(fresh())
    assert len(list(folder.glob("*/*.nbc"))) == 1


def test_only_entries_of_this_package_are_kept(folder: Path) -> None:
    @jit.entry
    def stranger(x: int) -> None:
        pass

    stranger.call(1)
    assert list(folder.glob("*/*")) == []


def test_two_processes_may_compile_at_once(tmp_path: Path) -> None:
    program = """
        import sys
        from edgellama.team import ENTRIES
        from edgellama.quant.jit import compile_entries

        print("ready", flush=True)
        sys.stdin.read()
        compile_entries(ENTRIES, None)
        print(sum(entry.compiled._cache_hits for entry in ENTRIES))
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
    assert list(tmp_path.rglob("*.tmp.*")) == []
    out, err = in_a_process(program, tmp_path).communicate(timeout=DEADLINE)
    assert (out, err) == ("ready\n3\n", "")
    assert len(list(tmp_path.rglob("*.nbc"))) == 3


@POSIX
def test_the_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        assert jit._why_not(tmp_path / "cache" / "kernels" / "abc") is None
    finally:
        os.umask(previous)
    for name in ("cache/kernels", "cache/kernels/abc"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


@POSIX
@pytest.mark.parametrize("name", ["kernels", "kernels/abc"])
@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    (tmp_path / "kernels" / "abc").mkdir(parents=True, mode=0o700)
    (tmp_path / "kernels").chmod(0o700)
    (tmp_path / name).chmod(mode)
    reason = jit._why_not(tmp_path / "kernels" / "abc")
    assert reason == f"{tmp_path / name} can be written by others (chmod go-w mends it)"


@POSIX
def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kernels" / "abc"
    assert jit._why_not(folder) is None
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert jit._why_not(folder) == f"{folder.parent} belongs to another user"


def test_a_file_where_the_folder_should_be_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    reason = jit._why_not(tmp_path / "file" / "kernels" / "abc")
    assert reason is not None
    assert str(tmp_path / "file") in reason


def test_without_a_folder_all_is_compiled_and_one_line_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jit, "CACHE_FOLDER", None)
    monkeypatch.setattr(jit, "CACHE_REFUSAL", "/x belongs to another user")
    said: list[str] = []
    entries = [fresh(dismiss), fresh(serve)]
    assert compile_entries([*entries, entries[0]], said.append) == 2
    assert said == [
        "kernels are compiled at every start, because /x belongs to another user;"
        " set EDGELLAMA_CACHE_DIR to a folder of your own",
        "compiling for this CPU: team.dismiss (1 of 2)",
        "compiling for this CPU: team.serve (2 of 2)",
    ]
    assert works(entries[0])
    assert compile_entries(entries, said.append) == 0
    assert len(said) == 3


def test_a_process_without_any_folder_begins_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    program = """
        from edgellama.quant.jit import CACHE_FOLDER, CACHE_REFUSAL
        from edgellama.team import dismiss
        print(CACHE_FOLDER, CACHE_REFUSAL, dismiss.address > 0)
    """
    process = in_a_process(program, tmp_path / "file")
    out, err = process.communicate(timeout=DEADLINE)
    assert (out.startswith("None "), out.endswith(" True\n"), err) == (True, True, "")


def test_an_entry_shows_no_name_but_its_own() -> None:
    # kernels of two entries may have one name: shown, either could be called for the other
    entry = find_format("Q4_1").products.dot
    assembly = entry._compile(keep=False)._library.get_asm_str()
    shown = re.findall(r"\.(?:globl|weak)\w*\s+(\S+)", assembly)
    assert shown
    assert all("legacy_kernels8dot_q4_1" in name for name in shown)


def test_a_second_process_compiles_what_the_first_has_not_reached(tmp_path: Path) -> None:
    # the second is asked for two kernels; the first waits for their files, which it does not make
    program = """
        import time
        from edgellama.quant import find_format
        from edgellama.quant.second_compiler import second_compiler
        products = find_format("F32").products
        entries = [products.unpack, products.dot, products.unpack, products.dot]
        with second_compiler(entries):
            end = time.monotonic() + 60
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
            end = time.monotonic() + 60
            while time.monotonic() < end and not entry.is_cached(on_disk=True):
                time.sleep(0.05)
        print(entry.is_cached(on_disk=True), os.path.exists("imported"))
    """
    process = in_a_process(program, tmp_path / "cache")
    out, err = process.communicate(timeout=DEADLINE)
    assert (out, err) == ("True False\n", "")
