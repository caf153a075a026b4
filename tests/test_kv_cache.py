"""The book-keeping of the cache's blocks, and blocks that are taken out and put back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellama.backends import Batch, BlockBackend, load_backend
from edgellama.config import ModelConfig
from edgellama.errors import ContextFull, InvalidRequest
from edgellama.gguf import GGUFFile
from edgellama.kv_cache import BLOCK_TOKENS, KVCache, head_bytes
from edgellama.weights import load_weights

Shape = Callable[..., ModelConfig]


@pytest.fixture
def cache(tiny_shape: Shape) -> KVCache:
    return KVCache(tiny_shape(), n_ctx=4 * BLOCK_TOKENS, n_sequences=3)


def blocks_of(cache: KVCache, sequence: int) -> list[int]:
    n = -(-cache.length(sequence) // BLOCK_TOKENS)
    return cache.tables[sequence, :n].tolist()


def test_blocks_are_taken_as_a_sequence_grows(cache: KVCache) -> None:
    for length, n_blocks in ((1, 1), (64, 1), (65, 2), (256, 4)):
        cache.extend(0, length)
        assert len(set(blocks_of(cache, 0))) == n_blocks


def test_sequences_do_not_meet(cache: KVCache) -> None:
    for sequence in range(3):
        cache.extend(sequence, cache.n_ctx)
    assert len({b for s in range(3) for b in blocks_of(cache, s)}) == 12


def test_a_copy_shares_its_blocks_until_one_of_them_writes(cache: KVCache) -> None:
    cache.extend(0, 100)
    cache.blocks[blocks_of(cache, 0)[1]] = 7
    cache.copy(0, 1, 100)
    assert blocks_of(cache, 0) == blocks_of(cache, 1)
    cache.extend(1, 101)
    assert blocks_of(cache, 0)[0] == blocks_of(cache, 1)[0]
    mine, other = blocks_of(cache, 1)[1], blocks_of(cache, 0)[1]
    assert mine != other
    assert np.array_equal(cache.blocks[mine], cache.blocks[other])


def test_a_shared_block_outlives_the_sequence_that_made_it(cache: KVCache) -> None:
    cache.extend(0, 128)
    cache.copy(0, 1, 128)
    kept = blocks_of(cache, 1)
    cache.rewind(0, 0)
    cache.extend(2, cache.n_ctx)
    assert not set(kept) & set(blocks_of(cache, 2))


def test_all_blocks_come_back(cache: KVCache) -> None:
    for _ in range(20):
        cache.extend(0, 200)
        cache.copy(0, 1, 130)
        cache.copy(1, 2, 70)
        for sequence in (1, 2):
            cache.extend(sequence, cache.n_ctx)
        for sequence in range(3):
            cache.rewind(sequence, 0)
    for sequence in range(3):
        cache.extend(sequence, cache.n_ctx)


def test_rewinding_to_what_is_held_changes_nothing(cache: KVCache) -> None:
    cache.extend(0, 100)
    before = blocks_of(cache, 0)
    cache.rewind(0, 100)
    assert blocks_of(cache, 0) == before
    with pytest.raises(InvalidRequest, match="rewind 100 tokens to 101"):
        cache.rewind(0, 101)


def test_a_full_context_names_both_numbers(cache: KVCache) -> None:
    with pytest.raises(ContextFull, match="257 tokens do not fit the context of 256"):
        cache.extend(0, 257)
    assert cache.length(0) == 0


def test_copying_more_than_there_is_is_refused(cache: KVCache) -> None:
    cache.extend(0, 10)
    with pytest.raises(InvalidRequest, match="copy 11 tokens of a sequence of 10"):
        cache.copy(0, 1, 11)


def test_an_unknown_type_is_refused(tiny_shape: Shape) -> None:
    with pytest.raises(InvalidRequest, match="known are f16, q8_0, f32"):
        KVCache(tiny_shape(), n_ctx=64, kv_type="q3")


def test_a_head_of_a_block_has_the_bytes_of_its_layout() -> None:
    assert head_bytes(64, "f16") == 64 * 64 * 2
    assert head_bytes(64, "f32") == 64 * 64 * 4
    assert head_bytes(64, "q8_0") == 64 * 64 + 64 * 2 * 2
    assert head_bytes(20, "f16") == 64 * 32 * 2


def test_blocks_come_out_as_copies_and_go_back_in(cache: KVCache) -> None:
    cache.extend(0, 130)
    cache.blocks[blocks_of(cache, 0)] = np.arange(3, dtype=np.uint8)[:, None]
    taken = cache.read_blocks(0, 0, 2)
    cache.blocks[:] = 9
    cache.extend(1, 200)
    cache.restore(1, taken)
    assert cache.length(1) == 128
    assert [cache.blocks[b].tolist() for b in blocks_of(cache, 1)] == [b.tolist() for b in taken]
    assert [int(block[0]) for block in taken] == [0, 1]


def test_restoring_does_not_touch_what_another_sequence_shares(cache: KVCache) -> None:
    cache.extend(0, 64)
    cache.blocks[blocks_of(cache, 0)] = 7
    cache.copy(0, 1, 64)
    cache.restore(1, [np.zeros(cache.block_bytes, np.uint8)])
    assert (cache.blocks[blocks_of(cache, 0)] == 7).all()


@pytest.mark.parametrize(("first", "end"), [(0, 3), (-1, 1), (2, 1)])
def test_only_whole_blocks_that_are_there_can_be_read(cache: KVCache, first: int, end: int) -> None:
    cache.extend(0, 130)
    with pytest.raises(InvalidRequest, match="holds 2 whole ones"):
        cache.read_blocks(0, first, end)


def test_blocks_of_another_cache_are_refused_and_change_nothing(cache: KVCache) -> None:
    cache.extend(0, 100)
    right = np.zeros(cache.block_bytes, np.uint8)
    for wrong in (right[1:], right[None], right.view(np.int8)):
        with pytest.raises(InvalidRequest, match="another model or kv_type"):
            cache.restore(0, [right, wrong])
    with pytest.raises(ContextFull, match="320 tokens do not fit the context of 256"):
        cache.restore(0, [right] * 5)
    assert cache.length(0) == 100


def open_tiny(path: Path, kv_type: str = "f16", backend: str = "cpu") -> BlockBackend:
    file = GGUFFile(path)
    config = ModelConfig.from_gguf(file)
    opened = load_backend(
        backend, config, load_weights(file, config), n_ctx=512, n_threads=1, kv_type=kv_type
    )
    assert isinstance(opened, BlockBackend) or backend == "reference"
    return opened  # type: ignore[return-value]


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "f32"])
def test_a_restored_sequence_goes_on_to_the_last_bit_as_one_that_was_computed(
    tmp_path: Path, write_tiny_llama: Callable[..., Path], kv_type: str
) -> None:
    shape = {"dim": 128, "n_heads": 4, "head_dim": 32}
    path = write_tiny_llama(tmp_path / "tiny.gguf", format="Q8_0", **shape)
    ids = np.random.default_rng(0).integers(0, 300, 230)
    one, other = open_tiny(path, kv_type), open_tiny(path, kv_type)
    try:
        one.forward(Batch.of(ids[:200], wanted="none"))
        blocks = one.read_blocks(0, 0, 3)
        one.rewind(0, 192)
        expected = one.forward(Batch.of(ids[192:], start=192, wanted="all"))
        other.forward(Batch.of(ids[::-1][:70], wanted="none"))  # forgotten by restoring
        other.restore(0, blocks)
        assert np.array_equal(other.forward(Batch.of(ids[192:], start=192, wanted="all")), expected)
        assert one.kv_type == kv_type
    finally:
        one.close()
        other.close()


def test_the_reference_keeps_no_blocks_and_says_so(tiny_llama: Path) -> None:
    backend = open_tiny(tiny_llama, backend="reference")
    assert not isinstance(backend, BlockBackend)
    backend.close()
