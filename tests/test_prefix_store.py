"""Blocks on disk: found again for the same prompt only, within a limit; the way of a prompt."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from prefixes import BLOCK, SECTOR, blocks_of, files_of, holds, keep, prompt

from edgellama.backends import Batch, BlockBackend, load_backend
from edgellama.config import ModelConfig
from edgellama.errors import InvalidRequest
from edgellama.gguf import GGUFFile
from edgellama.llama import Llama
from edgellama.prefix_store import PrefixStore, key_of
from edgellama.weights import load_weights

HANGS_S = 60  # seconds that a slow disk takes, if nobody helps it


@pytest.fixture
def store(tmp_path: Path) -> PrefixStore:
    return PrefixStore(tmp_path / "prefixes")


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
