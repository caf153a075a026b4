"""Products on raw Q2_K bytes (layout in q2_k.py)."""

import numpy as np

from .halves import dot_of, tile_of, unpack_of
from .jit import entry, inlined
from .simd.half import load_f16
from .simd.integer import add_halves, dot2, dot4_unsigned, sum_scaled_lanes
from .simd.vector import (
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
    take_bits,
)

BYTES = 84
QS, SCALE, MINIMUM = 16, 80, 82  # where they are in a super-block


@inlined
def _dot_four(qs, x, sub_scales):
    """Four blocks: their first halves, then their second."""
    q = load_i8x32(qs)
    return sum_scaled_lanes(
        dot4_unsigned(take_bits(q, 0, 3, 0), load_i8x32(x)),
        dot4_unsigned(take_bits(q, 2, 3, 0), load_i8x32(x + 32)),
        dot4_unsigned(take_bits(q, 4, 3, 0), load_i8x32(x + 64)),
        dot4_unsigned(take_bits(q, 6, 3, 0), load_i8x32(x + 96)),
        sub_scales,
    )


@inlined
def _add_group(so_far, w, codes, scales, half_sums):
    both = load_i8x16(w)
    sub_scales, minimums = low_nibbles(both), high_nibbles(both)
    dots = add_halves(
        _dot_four(w + QS, codes, low_half(sub_scales)),
        _dot_four(w + QS + 32, codes + 128, high_half(sub_scales)),
    )
    d, (scale, minimum) = load_f32x8(scales), _load_scales(w)
    so_far = fma(i32x8_to_f32(dots), splat_f32x8(scale) * d, so_far)
    excess = dot2(i8x16_to_i16(minimums), load_i16x16(half_sums))
    return fma(splat_f32x8(minimum), i32x8_to_f32(excess) * d, so_far)


@inlined
def _sixteen_codes(w, half, side):
    q = load_i8x16(w + QS + half * 32 + side * 16)
    return (
        take_bits(q, 0, 3, 0),
        take_bits(q, 2, 3, 0),
        take_bits(q, 4, 3, 0),
        take_bits(q, 6, 3, 0),
    )


@inlined
def _load_sub_scales(w):
    both = load_i8x16(w)
    return i8x16_to_i16(low_nibbles(both)), i8x16_to_i16(high_nibbles(both))


@inlined
def _load_scales(w):
    return load_f16(w + SCALE), load_f16(w + MINIMUM) * np.float32(-1)


@inlined
def _sixteen_weights(w, number, codes):
    both = load_i8(w + number)
    scale, minimum = _load_scales(w)
    scale, minimum = scale * np.float32(both & 15), minimum * np.float32(both >> 4 & 15)
    return i8x16_to_f32(codes) * splat_f32x16(scale) + splat_f32x16(minimum)


_dot_rows = dot_of(BYTES, _add_group)
_tile_rows = tile_of(BYTES, _sixteen_codes, _load_sub_scales, _load_scales, None)
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
