"""Blocks on disk are right whatever happens to files: damage, strangers, kills, ill disks."""

import errno
import os
import random
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prefixes import SECTOR, blocks_of, files_of, holds, keep, prompt

from edgellama.prefix_store import PrefixStore

POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes and owners of POSIX")


@pytest.fixture
def store(tmp_path: Path) -> PrefixStore:
    return PrefixStore(tmp_path / "prefixes")


# magic, version, bytes of the block, name, tokens, checksum, block: a byte of each
PARTS = {"magic": 0, "version": 8, "size": 12, "name": 20, "tokens": 40, "sum": 296, "block": 300}


@pytest.mark.parametrize("place", [*PARTS.values(), -1], ids=[*PARTS, "last byte"])
def test_a_flipped_bit_is_noticed_and_the_block_is_written_anew(
    store: PrefixStore, place: int
) -> None:
    tokens, said = prompt(3), list[str]()
    keep(store, tokens)
    middle = files_of(store)[1]
    data = bytearray(middle.read_bytes())
    data[place] ^= 16
    middle.write_bytes(data)
    later = PrefixStore(store.folder, report=said.append)
    assert holds(later, tokens) == 1
    assert later.damaged == 1
    assert said == [f"{middle}: was damaged and is removed; its tokens are computed again"]
    assert not middle.exists()
    keep(later, tokens)
    assert holds(later, tokens) == 3


def damage_by_truncating(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def damage_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


def damage_by_cutting_in_the_header(path: Path) -> None:
    os.truncate(path, 100)


def damage_by_appending(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def damage_by_zeroing_as_a_loss_of_power_does(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def damage_by_exchanging_it_for_another_block(path: Path) -> None:
    other = next(each for each in path.parent.glob("*.kv") if each != path)
    path.write_bytes(other.read_bytes())


def damage_by_random_bytes(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


@pytest.mark.parametrize(
    "damage",
    [value for name, value in globals().copy().items() if name.startswith("damage_by_")],
    ids=lambda damage: damage.__name__.removeprefix("damage_by_"),
)
def test_a_damaged_file_is_never_loaded_and_is_rebuilt(
    store: PrefixStore, damage: Callable[[Path], None]
) -> None:
    tokens = prompt(3)
    keep(store, tokens)
    for path in files_of(store)[:2]:  # of the last two blocks
        damage(path)
    assert holds(store, tokens) == 1
    keep(store, tokens)
    assert holds(store, tokens) == 2
    keep(store, tokens)
    assert holds(store, tokens) == 3
    assert store.damaged == 2


@POSIX
def test_links_pipes_and_files_of_others_are_not_read(store: PrefixStore, tmp_path: Path) -> None:
    tokens = prompt(2)
    keep(store, tokens)
    second, first = files_of(store)
    moved = tmp_path / "elsewhere"
    first.rename(moved)
    first.symlink_to(moved)
    assert holds(store, tokens) == 0
    assert moved.exists()
    os.mkfifo(first)
    assert holds(store, tokens) == 0  # and does not wait for someone to write into the pipe
    moved.rename(first)
    assert holds(store, tokens) == 2
    if os.geteuid() == 0:
        os.chown(second, 12345, -1)
        assert holds(store, tokens) == 1
    assert store.damaged >= 2


@POSIX
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path / "prefixes")
    keep(store, prompt(2))
    store.folder.chmod(0o770)
    said: list[str] = []
    later = PrefixStore(store.folder, report=said.append)
    assert later.longest("key", prompt(2)) == 0
    assert holds(later, prompt(2)) == 0
    keep(later, prompt(3))
    assert len(files_of(store)) == 2
    assert len(said) == 1
    assert "can be written by others" in said[0]


@POSIX
def test_what_a_user_said_is_for_the_user_alone(store: PrefixStore) -> None:
    before = os.umask(0)
    try:
        keep(store, prompt(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(files_of(store)[0].stat().st_mode) == 0o600


@pytest.mark.parametrize("where", ["a file", "below a file"])
def test_a_folder_that_cannot_be_made_is_told_once_and_nothing_is_kept(
    tmp_path: Path, where: str
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" if where == "a file" else tmp_path / "file" / "a" / "b"
    said: list[str] = []
    store = PrefixStore(folder, report=said.append)
    keep(store, prompt(2))
    assert holds(store, prompt(2)) == 0
    assert store.bytes == 0
    assert len(said) == 1
    assert str(tmp_path / "file") in store.refusal


def test_a_folder_removed_meanwhile_is_made_again(store: PrefixStore) -> None:
    keep(store, prompt(1))
    files_of(store)[0].unlink()
    store.folder.rmdir()
    assert holds(store, prompt(1)) == 0
    keep(store, prompt(1))
    assert holds(store, prompt(1)) == 1


def test_files_of_others_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    folder.mkdir(mode=0o700)
    letter = folder / "letter.txt"
    letter.write_bytes(bytes(10 * SECTOR))
    os.utime(letter, (0, 0))
    store = PrefixStore(folder, max_bytes=4 * SECTOR)
    for seed in range(3):
        keep(store, prompt(3, seed))
    assert letter.exists()
    assert holds(store, prompt(3, 2)) == 3


def test_what_killed_writers_left_is_swept_away_when_it_is_old(store: PrefixStore) -> None:
    keep(store, prompt(1))
    (whole,) = files_of(store)
    old, young = (whole.with_name(f"{whole.name}.{pid}-0") for pid in (1, 2))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    assert PrefixStore(store.folder).bytes == 2 * SECTOR
    assert not old.exists()
    assert young.exists()


# What a process of its own does with the folder argv[1]: keep prompts argv[2] to argv[3] - 1 of
# two blocks each, and say of each that it is kept.
WRITER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from prefixes import PrefixStore, keep, prompt
store = PrefixStore(sys.argv[1])
for seed in range(int(sys.argv[2]), int(sys.argv[3])):
    keep(store, prompt(2, seed), n_bytes=100_000)
    print(seed, flush=True)
"""


def start_writer(folder: Path, first: int, end: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(first), str(end)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_kill_at_any_moment_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    """SIGKILL (TerminateProcess on Windows) at a random moment of one writer after the other."""
    moment = random.Random(0)
    kept: list[int] = []
    for i in range(8):
        with start_writer(tmp_path / "prefixes", 1000 * i, 1000 * i + 1000) as writer:
            assert writer.stdout is not None
            kept.append(int(writer.stdout.readline()))
            time.sleep(moment.uniform(0, 0.1))
            writer.kill()
            kept += [int(line) for line in writer.stdout.read().splitlines()]
    store = PrefixStore(tmp_path / "prefixes")
    assert len(kept) >= 8
    assert all(holds(store, prompt(2, seed), n_bytes=100_000) == 2 for seed in kept)
    assert store.damaged == 0


def test_two_processes_write_the_same_folder_at_once(tmp_path: Path) -> None:
    """Half of their prompts are the same."""
    folder = tmp_path / "prefixes"
    with start_writer(folder, 0, 20) as one, start_writer(folder, 10, 30) as other:
        assert one.wait(60) == 0
        assert other.wait(60) == 0
    store = PrefixStore(folder)
    assert all(holds(store, prompt(2, seed), n_bytes=100_000) == 2 for seed in range(30))
    assert len(list(folder.iterdir())) == 60


def test_threads_that_load_save_and_evict_at_once_see_whole_blocks_only(tmp_path: Path) -> None:
    """Two stores over one folder too small for all, as two processes would have."""
    stores = [PrefixStore(tmp_path / "prefixes", max_bytes=12 * SECTOR) for _ in range(2)]
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        try:
            for _ in range(40):
                store, tokens = choose.choice(stores), prompt(4, choose.randrange(5))
                if holds(store, tokens) < 4:
                    store.save("key", tokens, blocks_of(tokens))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert all(store.flush(60) for store in stores)
    assert [store.damaged for store in stores] == [0, 0]


@pytest.mark.parametrize("operation", ["open", "replace"])
def test_a_failing_disk_turns_writing_off_and_reading_goes_on(
    store: PrefixStore, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    keep(store, prompt(2))
    said: list[str] = []
    later = PrefixStore(store.folder, report=said.append)
    with monkeypatch.context() as patch:

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, "the disk is ill")

        patch.setattr(os, operation, fail)
        for seed in (1, 2):
            later.save("key", prompt(2, seed), blocks_of(prompt(2, seed)))
            assert later.flush(60)
    assert said == [
        f"prompts are not kept for the next start, because {store.folder}: the disk is ill"
    ]
    keep(later, prompt(2, 3))
    assert holds(later, prompt(2)) == 2
    assert holds(later, prompt(2, 3)) == 0
    assert len(list(store.folder.iterdir())) == 2


def test_a_disk_that_keeps_no_times_is_used_all_the_same(
    store: PrefixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    for _ in range(2):
        keep(store, prompt(2))
        assert holds(store, prompt(2)) == 2
    assert store.refusal == ""


def test_a_file_that_someone_reads_while_it_is_replaced_is_there_already(
    store: PrefixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where it cannot be replaced then."""

    def busy(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes())
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(os, "replace", busy)
    keep(store, prompt(2))
    assert store.refusal == ""
    assert holds(store, prompt(2)) == 2


FULL_DISK = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from prefixes import PrefixStore, holds, keep, prompt
said = []
store = PrefixStore(sys.argv[1], report=said.append)
keep(store, prompt(2, 1))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
keep(store, prompt(2, 2), n_bytes=100_000)
keep(store, prompt(2, 3))
assert holds(store, prompt(2, 1)) == 2
assert holds(store, prompt(2, 2)) == holds(store, prompt(2, 3)) == 0
print(*said, sep="\\n")
"""


@POSIX
def test_a_disk_that_takes_no_more_turns_writing_off_and_leaves_what_is_there(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "prefixes"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder)], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"prompts are not kept for the next start, because {folder}: File too large"
    ]
    assert len(list(folder.iterdir())) == 2  # no half file stays
