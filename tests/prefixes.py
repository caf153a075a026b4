"""Prompts of random tokens, and stores that keep blocks made of them."""

from pathlib import Path

import numpy as np

from edgellama.prefix_store import PrefixStore

BLOCK = 1000  # bytes; with its header it takes one sector
SECTOR = 4096


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


def files_of(store: PrefixStore) -> list[Path]:
    """The oldest first: the last block of a prompt before its first."""
    return sorted(store.folder.glob("*.kv"), key=lambda path: path.stat().st_mtime_ns)
