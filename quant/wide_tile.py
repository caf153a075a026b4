"""The products of tile.py on 32 registers of 512 bits.

A register holds four columns of all 16 rows, and eight of them a block; eight tokens, a sum in a
register for each, pass by. Sums and their order are those of tile.py.
"""

import numpy as np

from .jit import inlined, kernel
from .kernels import BLOCK
from .simd.integer import dot_rows, excess_of, load_rows
from .simd.vector import (
    fma,
    i32x16_to_f32,
    load_f32,
    load_f32x16,
    load_i32,
    splat_f32x16,
    splat_i32x16,
    store,
)

PIECE = 64  # bytes of four columns of all rows
SCALES = 64
TOKENS = 8


@inlined
def _add_token(
    nothing, offset, w0, w1, w2, w3, w4, w5, w6, w7, scale, minimums, x, token, block, so_far
):
    """A block of sixteen rows and of a token, lane by lane, in the order that kernels.py states."""
    place = token * (x.padded // BLOCK) + block
    d, sum_of_codes = load_f32(x.scales + place * 4), load_i32(x.sums + place * 4)
    more = excess_of(nothing) + (0 if offset is None else offset)
    less = splat_i32x16(np.int32(-more * sum_of_codes))
    codes = x.codes + place * BLOCK
    exact = dot_rows(nothing, less, w0, w1, w2, w3, w4, w5, w6, w7, codes)
    so_far = fma(i32x16_to_f32(exact), scale * splat_f32x16(d), so_far)
    if offset is None:
        total = splat_f32x16(load_f32(x.totals + place * 4))
        return fma(load_f32x16(minimums), total, so_far)
    return so_far


@kernel
def sum_wide_class(nothing, offset, codes, scales, first, blocks, group, x, token, last, low, high):
    """Blocks first, first + group, ... of 16 rows times the eight tokens from `token` on: four to
    low (4, 16) float32, four to high. Behind the last token it is repeated.
    """
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = splat_f32x16(np.float32(0))
    t1, t2, t3 = min(token + 1, last), min(token + 2, last), min(token + 3, last)
    t4, t5, t6 = min(token + 4, last), min(token + 5, last), min(token + 6, last)
    t7 = min(token + 7, last)
    for b in range(first, blocks, group):
        w = codes + b * 8 * PIECE
        w0, w1 = load_rows(nothing, w), load_rows(nothing, w + PIECE)
        w2, w3 = load_rows(nothing, w + 2 * PIECE), load_rows(nothing, w + 3 * PIECE)
        w4, w5 = load_rows(nothing, w + 4 * PIECE), load_rows(nothing, w + 5 * PIECE)
        w6, w7 = load_rows(nothing, w + 6 * PIECE), load_rows(nothing, w + 7 * PIECE)
        d, minimums = load_f32x16(scales + b * SCALES), scales + (blocks + b) * SCALES
        weights = (nothing, offset, w0, w1, w2, w3, w4, w5, w6, w7, d, minimums, x)
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
