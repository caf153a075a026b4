"""Random weights in any format, also in one that we read but cannot make."""

from functools import cache

import numpy as np

from edgellama.quant import Format


def random_rows(
    rng: np.random.Generator, rows: int, cols: int, fmt: Format, rms: float
) -> np.ndarray:
    """(rows, row_bytes) uint8 of weights with mean 0 and about this root mean square."""
    if fmt.quantize_blocks is not None:  # no kernel need be compiled
        return fmt.quantize(rng.normal(0, rms, (rows, cols)).astype(np.float32))
    blocks = _ordinary_blocks(fmt, rms)
    chosen = rng.integers(0, len(blocks), (rows, cols // fmt.block_size))
    return blocks[chosen].reshape(rows, fmt.row_bytes(cols))


@cache
def _ordinary_blocks(fmt: Format, rms: float) -> np.ndarray:
    """(n, type_size) uint8, n >= 64: of random bytes those that weights of this size could have."""
    rng = np.random.default_rng(0)
    found: list[np.ndarray] = []
    while sum(map(len, found)) < 64:
        blocks = rng.integers(0, 256, (1024, fmt.type_size), np.uint8)
        with np.errstate(all="ignore"):  # most have scales that no weights have
            weights = fmt.dequantize_blocks(blocks) / np.float32(rms)
            size = np.sqrt((weights**2).mean(axis=1))
            centred = np.abs(weights.mean(axis=1)) < 0.3 * size
        found.append(blocks[centred & (size > 0.7) & (size < 1.4)])
    return np.concatenate(found)
