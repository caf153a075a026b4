"""Products on raw Q6_K bytes (layout in q6_k.py).

The exact integer of a block is at most 32 * 32 * 127 * 128 = 16.6 million, less than 2 ** 24, so
that it is exact as float32 too.
"""

import numpy as np

from .halves import dot_of, tile_of, unpack_of
from .jit import entry, inlined
from .simd.half import load_f16
from .simd.integer import add_halves, dot2, dot4_unsigned, sum_scaled_lanes
from .simd.vector import (
    bits_0_1,
    bits_2_3,
    bits_4_5,
    bits_6_7,
    fma,
    high_half,
    high_nibbles,
    i8x16_to_f32,
    i8x16_to_i16,
    i32x8_to_f32,
    load_f32x8,
    load_i8,
    load_i8x16,
    load_i8x32,
    load_i16x16,
    low_half,
    low_nibbles,
    splat_f32x8,
    splat_f32x16,
    splat_i32x8,
)

BYTES = 210
QH, SUB_SCALES, SCALE = 128, 192, 208  # where they are in it
OFFSET = 32  # w = d * sub-scale * (code - 32)


@inlined
def _dot_four(ql, qh, x, sub_scales):
    """Four blocks, without the offset: their first halves, then their second."""
    low, high, top = load_i8x32(ql), load_i8x32(ql + 32), load_i8x32(qh)
    return sum_scaled_lanes(
        dot4_unsigned(low_nibbles(low) + bits_0_1(top), load_i8x32(x)),
        dot4_unsigned(low_nibbles(high) + bits_2_3(top), load_i8x32(x + 32)),
        dot4_unsigned(high_nibbles(low) + bits_4_5(top), load_i8x32(x + 64)),
        dot4_unsigned(high_nibbles(high) + bits_6_7(top), load_i8x32(x + 96)),
        sub_scales,
    )


@inlined
def _add_group(so_far, w, codes, scales, half_sums):
    """Eight blocks of a row, one a lane."""
    sub_scales = load_i8x16(w + SUB_SCALES)
    dots = add_halves(
        _dot_four(w, w + QH, codes, low_half(sub_scales)),
        _dot_four(w + 64, w + QH + 32, codes + 128, high_half(sub_scales)),
    )
    excess = dot2(load_i16x16(half_sums), i8x16_to_i16(sub_scales))
    exact = dots - excess * splat_i32x8(np.int32(OFFSET))
    return fma(i32x8_to_f32(exact), splat_f32x8(load_f16(w + SCALE)) * load_f32x8(scales), so_far)


@inlined
def _sixteen_codes(w, half, side):
    """Sixteen codes each of the four blocks of a half of a super-block: their first or second."""
    ql, qh = w + half * 64 + side * 16, w + QH + half * 32 + side * 16
    low, high, top = load_i8x16(ql), load_i8x16(ql + 32), load_i8x16(qh)
    return (
        low_nibbles(low) + bits_0_1(top),
        low_nibbles(high) + bits_2_3(top),
        high_nibbles(low) + bits_4_5(top),
        high_nibbles(high) + bits_6_7(top),
    )


@inlined
def _load_sub_scales(w):
    sub_scales = i8x16_to_i16(load_i8x16(w + SUB_SCALES))
    return sub_scales, sub_scales


@inlined
def _load_scales(w):
    return load_f16(w + SCALE), np.float32(0)


@inlined
def _sixteen_weights(w, number, codes):
    scale = load_f16(w + SCALE) * np.float32(load_i8(w + SUB_SCALES + number))
    return (i8x16_to_f32(codes) - splat_f32x16(np.float32(OFFSET))) * splat_f32x16(scale)


_dot_rows = dot_of(BYTES, _add_group)
_tile_rows = tile_of(BYTES, _sixteen_codes, _load_sub_scales, _load_scales, OFFSET)
_unpack_row = unpack_of(BYTES, _sixteen_codes, _sixteen_weights)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_rows(matrix, activations, first, last, n, out, out_stride)


@entry
def tile(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_rows(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack(matrix, row, out, scratch):
    _unpack_row(matrix, row, out)
