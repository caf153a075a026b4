"""The grid of numbers that packed rows can hold once their scales are fixed.

A quantizer that chooses codes by another rule than rounding (to compensate errors, say) lets the
search find the scales, takes the grid of what it found, and writes codes of its own:

    packed = fmt.quantize(x, importance)
    grid = fmt.grid(packed)                  weight = grid.scale * code - grid.minimum
    packed = fmt.with_codes(packed, codes)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .format import Blocks

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.uint8]  # (n_blocks, block_size), counted from 0


@dataclass(frozen=True)
class Grid:
    """weight[r, j] = scale[r, j // sub] * code[r, j] - minimum[r, j // sub], sub = cols / subs.

    In float32 and in this order (the product is rounded before the difference) that is what
    dequantize gives, bit for bit. Codes are whole numbers from `lowest` to `highest`. A scale may
    be negative or zero. Formats with a table of values have `levels`: there
    weight = scale * levels[code].
    """

    scale: F32  # (rows, subs)
    minimum: F32  # (rows, subs), zeros where the format has none
    lowest: int
    highest: int
    levels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Scales:
    """What a search found: scales d * s and minimums dmin * m, s and m whole numbers."""

    d: F32  # (n, 1), each a float16
    dmin: F32  # (n, 1), zeros where the format has no minimums
    s: F32  # (n, subs)
    m: F32  # (n, subs)


@dataclass(frozen=True)
class Layout:
    """Where scales and codes stand in the blocks of a format."""

    lowest: int  # a code is stored less this, so from 0 on
    highest: int
    read_scales: Callable[[Blocks], tuple[F32, F32 | None]]  # (n, subs) each: scale, minimum
    write_codes: Callable[[Blocks, Codes], None]
    write_scales: Callable[[Blocks, Scales], None] | None = None  # None: no search knows the format
    levels: tuple[int, ...] | None = None


def f16_bytes(d: F32) -> Bytes:
    """(n, 1) float32 -> (n, 2) uint8."""
    return d.astype(np.float16).view(np.uint8)


def make_grid(layout: Layout, packed: Blocks, type_size: int) -> Grid:
    """The grid of (rows, row_bytes) packed bytes."""
    rows = len(packed)
    scale, minimum = layout.read_scales(packed.reshape(-1, type_size))
    if minimum is None:
        minimum = np.zeros_like(scale)
    shape = (rows, scale.size // max(rows, 1))
    return Grid(
        scale.reshape(shape), minimum.reshape(shape), layout.lowest, layout.highest, layout.levels
    )


def replace_codes(
    layout: Layout, packed: Blocks, codes: npt.ArrayLike, block_size: int, type_size: int
) -> Blocks:
    """A copy of (rows, row_bytes) packed bytes with other codes; ValueError if one is too large."""
    chosen = np.asarray(codes)
    cols = packed.shape[1] // type_size * block_size
    if chosen.shape != (len(packed), cols):
        raise ValueError(f"expected codes ({len(packed)}, {cols}), found shape {chosen.shape}")
    if chosen.size and not layout.lowest <= chosen.min() <= chosen.max() <= layout.highest:
        raise ValueError(
            f"expected codes {layout.lowest}..{layout.highest}, "
            f"found {chosen.min()}..{chosen.max()}"
        )
    replaced = packed.copy()
    stored = (chosen.astype(np.int16) - np.int16(layout.lowest)).astype(np.uint8)
    layout.write_codes(replaced.reshape(-1, type_size), stored.reshape(-1, block_size))
    return replaced
