"""The book-keeping of the cache's blocks, without any numbers in them."""

from collections.abc import Callable

import numpy as np
import pytest

from edgellama.config import ModelConfig
from edgellama.errors import ContextFull, InvalidRequest
from edgellama.kv_cache import BLOCK_TOKENS, KVCache, head_bytes

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
