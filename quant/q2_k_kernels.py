"""Products on raw Q2_K bytes (layout in q2_k.py)."""

import numpy as np

from .dot import dot_of
from .halves import dot_halves, tile_of, unpack_of, widen_of
from .jit import entry, inlined
from .simd.half import load_f16
from .simd.integer import dot2
from .simd.rows import load_f16_of_rows, load_sixteen, registers_of
from .simd.vector import (
    fma,
    high_nibbles,
    i8x16_to_f32,
    i8x16_to_i16,
    i32x8_to_f32,
    load_f32x8,
    load_i8,
    load_i8x16,
    load_i8x32,
    load_i16x16,
    low_nibbles,
    splat_f32x8,
    splat_f32x16,
    take_bits,
)

BYTES = 84
QS, SCALE, MINIMUM = 16, 80, 82  # where they are in a super-block


@inlined
def _load_four(qs):
    """Codes of four blocks."""
    q = load_i8x32(qs)
    return (
        take_bits(q, 0, 3, 0),
        take_bits(q, 2, 3, 0),
        take_bits(q, 4, 3, 0),
        take_bits(q, 6, 3, 0),
    )


@inlined
def _load_group(w):
    low, high = _load_four(w + QS), _load_four(w + QS + 32)
    both, (scale, minimum) = load_i8x16(w), _load_scales(w)
    minimums = i8x16_to_i16(high_nibbles(both))
    return low, high, low_nibbles(both), minimums, splat_f32x8(scale), splat_f32x8(minimum)


@inlined
def _add_group(so_far, weights, x, at):
    low, high, sub_scales, minimums, scale, minimum = weights
    dots, d = dot_halves(low, high, sub_scales, x.codes + 8 * at), load_f32x8(x.scales + at)
    so_far = fma(i32x8_to_f32(dots), scale * d, so_far)
    excess = dot2(minimums, load_i16x16(x.half_sums + at))
    return fma(minimum, i32x8_to_f32(excess) * d, so_far)


@inlined
def _sixteen_codes(place, at, half, side):
    q = load_sixteen(place, at + QS + half * 32 + side * 16)
    return (
        take_bits(q, 0, 3, 0),
        take_bits(q, 2, 3, 0),
        take_bits(q, 4, 3, 0),
        take_bits(q, 6, 3, 0),
    )


@inlined
def _load_sub_scales(rows, at):
    both = load_sixteen(rows, at)
    return registers_of(low_nibbles(both)), registers_of(high_nibbles(both))


@inlined
def _load_scales_of_rows(rows, at):
    minus = splat_f32x8(np.float32(-1))
    return load_f16_of_rows(rows, at + SCALE), load_f16_of_rows(rows, at + MINIMUM) * minus


@inlined
def _load_scales(w):
    return load_f16(w + SCALE), load_f16(w + MINIMUM) * np.float32(-1)


@inlined
def _sixteen_weights(w, number, codes):
    both = load_i8(w + number)
    scale, minimum = _load_scales(w)
    scale, minimum = scale * np.float32(both & 15), minimum * np.float32(both >> 4 & 15)
    return i8x16_to_f32(codes) * splat_f32x16(scale) + splat_f32x16(minimum)


@inlined
def _sixteen_scales(w):
    both, (scale, minimum) = load_i8x16(w), _load_scales(w)
    return (
        i8x16_to_f32(low_nibbles(both)) * splat_f32x16(scale),
        i8x16_to_f32(high_nibbles(both)) * splat_f32x16(minimum),
    )


_dot_rows = dot_of(BYTES, _load_group, _add_group)
_tile_rows = tile_of(BYTES, _sixteen_codes, _load_sub_scales, _load_scales_of_rows, None)
_unpack_row = unpack_of(BYTES, _sixteen_codes, _sixteen_weights)
_widen_rows = widen_of(BYTES, _sixteen_codes, _sixteen_scales, None)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_rows(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_rows(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack(matrix, row, out, scratch):
    _unpack_row(matrix, row, out)


@entry
def widen(matrix, first, last, out, out_stride, scratch):
    _widen_rows(matrix, first, last, out, out_stride, scratch)
