"""The folder of machine code: keyed, private, refused, swept."""

import os
import time
from pathlib import Path

import pytest

from edgellama.quant import cache_folder
from edgellama.quant.simd import cpu

POSIX = pytest.mark.skipif(os.name == "nt", reason="owners and modes of files are POSIX")
DAY = 24 * 3600


@POSIX
def test_the_folder_is_private_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        assert cache_folder._why_not(tmp_path / "cache" / "kernels" / "abc") is None
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
    reason = cache_folder._why_not(tmp_path / "kernels" / "abc")
    assert reason == f"{tmp_path / name} can be written by others (chmod go-w mends it)"


@POSIX
def test_a_folder_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kernels" / "abc"
    assert cache_folder._why_not(folder) is None
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert cache_folder._why_not(folder) == f"{folder.parent} belongs to another user"


def test_a_file_where_the_folder_should_be_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    reason = cache_folder._why_not(tmp_path / "file" / "kernels" / "abc")
    assert reason is not None
    assert str(tmp_path / "file") in reason


def test_another_cpu_has_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    here = cache_folder._fingerprint()
    assert cache_folder._fingerprint() == here
    monkeypatch.setattr(cache_folder, "_cpu", lambda: "znver5 +avx512f")
    there = cache_folder._fingerprint()
    assert there != here
    assert there.endswith(f"-{cpu.current_tier().name}")


def test_the_key_knows_every_kernel_and_what_their_constants_come_from() -> None:
    named = {path.name for path in cache_folder._kernel_sources()}
    assert named >= {"step.py", "attention.py", "ops.py", "team_kernels.py", "q4_0_kernels.py"}
    assert named >= {"context.py", "kv_cache.py", "team.py", "vector.py", "kernels.py"}
    assert not named & {"llama.py", "chat.py", "gguf.py"}  # or every change would compile anew


def test_folders_of_before_go_when_nobody_has_begun_with_them_for_a_month(tmp_path: Path) -> None:
    ages = {
        "0123456789abcdef-avx2": 29,
        "1123456789abcdef-avx2": 31,
        "2123456789abcdef-avx512_vnni-emulated": 400,
        "3123456789abcdef-avx2.old": 31,  # what a process left that was ended while it swept
        "notes": 400,  # not ours
    }
    for name, days in ages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "step.step.code").write_bytes(b"")
        then = time.time() - days * DAY
        os.utime(tmp_path / name, (then, then))
    cache_folder.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"0123456789abcdef-avx2", "notes"}


def test_a_start_counts_as_use(tmp_path: Path) -> None:
    folder = tmp_path / "kernels" / "0123456789abcdef-avx2"
    assert cache_folder._why_not(folder) is None
    long_ago = time.time() - 400 * DAY
    os.utime(folder, (long_ago, long_ago))
    assert cache_folder._why_not(folder) is None
    cache_folder.sweep(folder.parent)
    assert folder.is_dir()
