"""Blocks on disk: found again for the same prompt only, and right whatever happens to files."""

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
from types import SimpleNamespace

import numpy as np
import pytest

from edgellama.backends import Batch, BlockBackend, load_backend
from edgellama.config import ModelConfig
from edgellama.errors import InvalidRequest
from edgellama.gguf import GGUFFile
from edgellama.llama import Llama
from edgellama.prefix_store import PrefixStore, key_of
from edgellama.weights import load_weights

BLOCK = 1000  # bytes; with its header it takes one sector
SECTOR = 4096
HANGS_S = 60  # seconds that a slow disk takes, if nobody helps it
POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes and owners of POSIX")


def prompt(n_blocks: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 1 << 17, 64 * n_blocks).tolist()


def blocks_of(tokens: list[int], n_bytes: int = BLOCK) -> list[np.ndarray]:
    """A block for each 64 tokens, made of the tokens up to there."""
    ends = range(64, len(tokens) + 1, 64)
    return [np.random.default_rng(tokens[:n]).integers(0, 256, n_bytes, np.uint8) for n in ends]


def holds(store: PrefixStore, tokens: list[int], key: str = "key", n_bytes: int = BLOCK) -> int:
    """How many blocks of the prompt it has; all of them must be right."""
    loaded = store.load(key, tokens)
    for found, expected in zip(loaded, blocks_of(tokens, n_bytes), strict=False):
        assert np.array_equal(found, expected)
    return len(loaded)


def keep(store: PrefixStore, tokens: list[int], key: str = "key", n_bytes: int = BLOCK) -> None:
    store.save(key, tokens, blocks_of(tokens, n_bytes))
    assert store.flush(60)


@pytest.fixture
def store(tmp_path: Path) -> PrefixStore:
    return PrefixStore(tmp_path / "prefixes")


def files_of(store: PrefixStore) -> list[Path]:
    """The oldest first: the last block of a prompt before its first."""
    return sorted(store.folder.glob("*.kv"), key=lambda path: path.stat().st_mtime_ns)


def test_a_prompt_is_found_by_the_next_process(store: PrefixStore) -> None:
    tokens = prompt(3)
    keep(store, [*tokens, 1, 2, 3])
    store.close()
    later = PrefixStore(store.folder)
    assert later.longest("key", [*tokens, 5]) == 192
    assert holds(later, [*tokens, 5]) == 3
    assert (later.hits, later.misses, later.tokens_saved) == (3, 0, 192)


def test_prompts_share_what_they_begin_with_and_nothing_else(store: PrefixStore) -> None:
    tokens, other = prompt(3), prompt(3, seed=1)
    keep(store, tokens)
    assert holds(store, tokens[:64] + other) == 1
    assert holds(store, other) == holds(store, tokens[:63]) == 0
    assert (store.hits, store.misses) == (1, 3 + 3)
    keep(store, other)
    # the same 64 tokens behind others are not the same block
    assert holds(store, other[:64] + tokens[64:]) == 1


def test_another_model_finds_nothing(store: PrefixStore) -> None:
    keep(store, prompt(2), key="one")
    assert holds(store, prompt(2), key="other") == 0


def test_what_is_kept_is_not_written_again(store: PrefixStore) -> None:
    tokens = prompt(3)
    keep(store, tokens[:128])
    before = {path: path.stat().st_ino for path in files_of(store)}
    keep(store, tokens)
    assert len(files_of(store)) == 3
    assert all(path.stat().st_ino == inode for path, inode in before.items())


def test_only_the_blocks_from_first_on_need_be_given(store: PrefixStore) -> None:
    tokens = prompt(4)
    keep(store, tokens[:128])
    first = store.longest("key", tokens) // 64
    store.save("key", tokens, blocks_of(tokens)[first:], first=first)
    store.flush(60)
    assert holds(store, tokens) == 4


def test_what_the_caller_has_already_is_neither_hit_nor_miss(store: PrefixStore) -> None:
    tokens = prompt(6)
    keep(store, tokens[:256])
    assert store.load("key", tokens, beyond=256) == []
    assert (store.hits, store.misses) == (0, 2)
    assert len(store.load("key", tokens, beyond=130)) == 4
    assert (store.hits, store.misses, store.tokens_saved) == (2, 4, 128)
    assert store.load("key", tokens, beyond=6 * 64) == []
    assert (store.hits, store.misses) == (2, 4)


def test_what_waits_to_be_written_is_found_already(store: PrefixStore) -> None:
    tokens = prompt(50)
    store.save("key", tokens, blocks_of(tokens))
    assert store.longest("key", tokens) == 50 * 64
    assert holds(store, tokens) == 50


def test_the_caller_is_not_held_up_by_the_disk(
    store: PrefixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk: blocks beyond the queue are dropped, and the beginning is what is kept."""
    gate = threading.Event()
    write = store._write
    monkeypatch.setattr(store, "_write", lambda *block: (gate.wait(HANGS_S), write(*block)))
    monkeypatch.setattr("edgellama.prefix_store.MAX_PENDING_BYTES", 5 * BLOCK)
    tokens = prompt(8)
    started = time.perf_counter()
    store.save("key", tokens, blocks_of(tokens))
    assert time.perf_counter() - started < HANGS_S / 2
    assert store.dropped == 3
    assert not store.flush(0.01)
    gate.set()
    assert store.flush(60)
    assert holds(PrefixStore(store.folder), tokens) == 5


def test_closing_takes_a_bounded_time_even_if_the_disk_hangs(
    store: PrefixStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(store, "_write", lambda *block: gate.wait(HANGS_S))
    store.save("key", prompt(3), blocks_of(prompt(3)))
    started = time.perf_counter()
    store.close(timeout=0.1)
    assert time.perf_counter() - started < HANGS_S / 2
    gate.set()
    store.save("key", prompt(3), blocks_of(prompt(3)))
    assert store.flush(60)
    assert not files_of(store)


def test_no_thread_stays_when_nothing_waits(store: PrefixStore) -> None:
    keep(store, prompt(3))
    end = time.monotonic() + 60
    while any(thread.name == "edgellama-prefixes" for thread in threading.enumerate()):
        assert time.monotonic() < end, "the writer is still there"
        time.sleep(0.01)


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


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    """Room for 16 blocks: of four prompts of four, the one not used lately makes room."""
    store = PrefixStore(tmp_path / "prefixes", max_bytes=16 * SECTOR)
    prompts = [prompt(4, seed) for seed in range(5)]
    for tokens in prompts[:4]:
        keep(store, tokens)
    assert holds(store, prompts[0]) == 4
    keep(store, prompts[4])
    assert [holds(store, tokens) for tokens in (prompts[0], *prompts[2:])] == [4, 4, 4, 4]
    assert holds(store, prompts[1]) == 0


def test_a_prompt_loses_its_end_before_its_beginning(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path / "prefixes", max_bytes=16 * SECTOR)
    keep(store, prompt(10))
    keep(store, prompt(8, seed=1))
    assert 0 < holds(store, prompt(10)) < 10
    assert holds(store, prompt(8, seed=1)) == 8


def test_the_folder_never_passes_its_limit(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path / "prefixes", max_bytes=20 * SECTOR)
    for seed in range(15):
        keep(store, prompt(5, seed))
        taken = sum(-(-p.stat().st_size // SECTOR) * SECTOR for p in store.folder.iterdir())
        assert taken <= store.max_bytes
    assert store.bytes == taken
    assert holds(store, prompt(5, 14)) == 5


def test_no_more_is_taken_than_left_free_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of 20 sectors, on which nothing else is; then others fill it."""
    others = 0

    def usage(folder: Path) -> SimpleNamespace:
        ours = sum(-(-p.stat().st_size // SECTOR) for p in folder.iterdir())
        return SimpleNamespace(free=(20 - others - ours) * SECTOR)

    monkeypatch.setattr("edgellama.prefix_store.shutil.disk_usage", usage)
    store = PrefixStore(tmp_path / "prefixes")
    for seed in range(4):
        keep(store, prompt(5, seed))
    assert len(files_of(store)) <= 10
    assert holds(store, prompt(5, 3)) == 5
    others = 14
    later = PrefixStore(store.folder)
    keep(later, prompt(2, 9))
    assert len(files_of(store)) <= 3
    assert holds(later, prompt(2, 9)) == 2
    assert later.refusal == ""


def test_a_limit_too_small_for_one_block_keeps_none(tmp_path: Path) -> None:
    for max_bytes in (0, SECTOR - 1):
        store = PrefixStore(tmp_path / "prefixes", max_bytes=max_bytes)
        keep(store, prompt(2))
        assert not files_of(store)
    with pytest.raises(InvalidRequest, match="max_bytes must be 0 or more"):
        PrefixStore(tmp_path, max_bytes=-1)


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
from test_prefix_store import PrefixStore, keep, prompt
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
from test_prefix_store import PrefixStore, holds, keep, prompt
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


def key(path: Path, kv_type: str = "f16", arithmetic: str = "f32") -> str:
    with GGUFFile(path) as file:
        return key_of(file, kv_type, arithmetic)


def test_a_key_is_of_the_content_and_not_of_the_place(
    tmp_path: Path, write_tiny_llama: Callable[..., Path]
) -> None:
    one = write_tiny_llama(tmp_path / "one.gguf")
    same = write_tiny_llama(tmp_path / "other.gguf")
    assert key(one) == key(same)
    keys = {
        key(one),
        key(one, kv_type="q8_0"),
        key(one, arithmetic="amx"),
        key(write_tiny_llama(tmp_path / "b.gguf", seed=1)),
        key(write_tiny_llama(tmp_path / "c.gguf", format="Q8_0")),
        key(write_tiny_llama(tmp_path / "d.gguf", rope_theta=20000.0)),
        key(write_tiny_llama(tmp_path / "e.gguf", tokenizer="bpe")),
    }
    assert len(keys) == 7


@pytest.mark.parametrize("name", ["blk.1.ffn_norm.weight", "token_embd.weight"])
@pytest.mark.parametrize("at", [0.0, 0.5, 1.0], ids=["start", "middle", "end"])
def test_training_of_one_tensor_changes_the_key(
    tiny_llama: Path, tmp_path: Path, name: str, at: float
) -> None:
    with GGUFFile(tiny_llama) as file:
        tensor = file.tensors[name]
    data = bytearray(tiny_llama.read_bytes())
    data[tensor.offset + int(at * (tensor.n_bytes - 1))] ^= 1
    (tmp_path / "tuned.gguf").write_bytes(data)
    assert key(tmp_path / "tuned.gguf") != key(tiny_llama)


def test_a_prompt_restored_from_disk_goes_on_to_the_last_bit(
    store: PrefixStore, tiny_llama: Path
) -> None:
    """The whole way: computed, kept, loaded by another backend, continued."""
    tokens = np.random.default_rng(0).integers(0, 300, 150).tolist()

    def open_backend() -> tuple[BlockBackend, str]:
        file = GGUFFile(tiny_llama)
        config = ModelConfig.from_gguf(file)
        backend = load_backend("cpu", config, load_weights(file, config), n_ctx=256, n_threads=1)
        assert isinstance(backend, BlockBackend)
        return backend, key_of(file, backend.kv_type, backend.arithmetic)

    first, model = open_backend()
    first.forward(Batch.of(tokens[:128], wanted="none"))
    expected = first.forward(Batch.of(tokens[128:], start=128, wanted="all"))
    store.save(model, tokens, first.read_blocks(0, 0, 2))
    store.close()
    first.close()
    second, model = open_backend()
    second.restore(0, PrefixStore(store.folder).load(model, tokens))
    found = second.forward(Batch.of(tokens[128:], start=128, wanted="all"))
    second.close()
    assert np.array_equal(found, expected)


def test_the_next_start_continues_a_prompt_it_never_read(
    store: PrefixStore, tiny_llama: Path, tiny_text: str
) -> None:
    """And with a damaged file in the middle it reads from there on, and says the same."""

    def answer(kept: PrefixStore) -> tuple[list[int], int]:
        with Llama(tiny_llama, n_ctx=512, n_threads=1, prefix_store=kept) as llm:
            ids = llm.tokenize(tiny_text, bos=True)[:400]
            found = llm.generate(ids, max_tokens=8, temperature=0.0).read()
        kept.close()
        return found.tokens, found.timings.cache_n

    tokens, cached = answer(store)
    assert cached == 0
    assert len(files_of(store)) == 6  # of 400 tokens and 7 answered; the last has no keys yet
    second = PrefixStore(store.folder)
    assert answer(second) == (tokens, 384)
    assert (second.hits, second.misses) == (6, 0)
    files_of(store)[2].write_bytes(b"damaged")
    third = PrefixStore(store.folder)
    assert answer(third) == (tokens, 192)
    assert (third.hits, third.misses, third.damaged) == (3, 3, 1)
    assert answer(PrefixStore(store.folder)) == (tokens, 384)
