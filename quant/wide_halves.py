"""The products of halves.py on 32 registers of 512 bits, as wide_tile.py has those of tile.py.

The integer of a block is less than 2 ** 24, and so is each of its two parts: they are exact as
float32, where scaling and adding them is one operation.
"""

import numpy as np

from .jit import inlined, kernel
from .kernels import BLOCK
from .simd.integer import (
    dot2_rows,
    dot_half_rows,
    first_of_pairs_to_f32,
    load_rows,
    no_sixes,
    second_of_pairs_to_f32,
)
from .simd.vector import (
    fma,
    i32x16_to_f32,
    load_f32,
    load_f32x16,
    load_i32,
    load_i32x16,
    splat_f32x16,
    splat_i32x16,
    store,
)

PIECE = 64  # bytes of four columns of all rows
PAIRS = 64  # bytes of the sub-scales of a block of all rows
SCALES = 64  # bytes of the scales of a group of all rows


@inlined
def _add_token(
    offset, w0, w1, w2, w3, w4, w5, w6, w7, first, second, scale, minimums, minimum, x, token,
    block, so_far
):  # fmt: skip
    """A block of sixteen rows and of a token, lane by lane, in the order that kernels.py states."""
    place = token * (x.padded // BLOCK) + block
    codes, d = x.codes + place * BLOCK, splat_f32x16(load_f32(x.scales + place * 4))
    half_sums, less = load_i32(x.half_sums + place * 4), 0 if offset is None else offset
    low = dot2_rows(splat_i32x16(np.int32(-less & 0xFFFF)), half_sums)
    high = dot2_rows(splat_i32x16(np.int32(-less << 16)), half_sums)
    low = dot_half_rows(low, w0, w1, w2, w3, codes)
    high = dot_half_rows(high, w4, w5, w6, w7, codes + BLOCK // 2)
    exact = fma(i32x16_to_f32(high), second, i32x16_to_f32(low) * first)
    so_far = fma(exact, scale * d, so_far)
    if offset is None:
        return fma(minimum, i32x16_to_f32(dot2_rows(minimums, half_sums)) * d, so_far)
    return so_far


@kernel
def sum_wide_halves(
    offset, codes, pairs, scales, first, blocks, group, x, token, last, low, high
):  # fmt: skip
    """Blocks first, first + group, ... of 16 rows times the eight tokens from `token` on: four to
    low (4, 16) float32, four to high. Behind the last token it is repeated.
    """
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = splat_f32x16(np.float32(0))
    t1, t2, t3 = min(token + 1, last), min(token + 2, last), min(token + 3, last)
    t4, t5, t6 = min(token + 4, last), min(token + 5, last), min(token + 6, last)
    t7, nothing = min(token + 7, last), no_sixes()
    for b in range(first, blocks, group):
        w = codes + b * 8 * PIECE
        w0, w1 = load_rows(nothing, w), load_rows(nothing, w + PIECE)
        w2, w3 = load_rows(nothing, w + 2 * PIECE), load_rows(nothing, w + 3 * PIECE)
        w4, w5 = load_rows(nothing, w + 4 * PIECE), load_rows(nothing, w + 5 * PIECE)
        w6, w7 = load_rows(nothing, w + 6 * PIECE), load_rows(nothing, w + 7 * PIECE)
        both, d = load_i32x16(pairs + b * PAIRS), load_f32x16(scales + b // group * SCALES)
        minimums, minimum = both, d
        if offset is None:
            minimums = load_i32x16(pairs + (blocks + b) * PAIRS)
            minimum = load_f32x16(scales + (blocks + b) // group * SCALES)
        one, two = first_of_pairs_to_f32(both), second_of_pairs_to_f32(both)
        weights = (offset, w0, w1, w2, w3, w4, w5, w6, w7, one, two, d, minimums, minimum, x)
        a0 = _add_token(*weights, token, b, a0)
        a1 = _add_token(*weights, t1, b, a1)
        a2 = _add_token(*weights, t2, b, a2)
        a3 = _add_token(*weights, t3, b, a3)
        a4 = _add_token(*weights, t4, b, a4)
        a5 = _add_token(*weights, t5, b, a5)
        a6 = _add_token(*weights, t6, b, a6)
        a7 = _add_token(*weights, t7, b, a7)
    store(low, a0)
    store(low + 64, a1)
    store(low + 128, a2)
    store(low + 192, a3)
    store(high, a4)
    store(high + 64, a5)
    store(high + 128, a6)
    store(high + 192, a7)
