"""Products on raw Q6_K bytes (layout in q6_k.py).

The exact integer of a block is at most 32 * 32 * 127 * 128 = 16.6 million, less than 2 ** 24, so
that it is exact as float32 too.
"""

import numpy as np

from .dot import dot_of
from .halves import add_halves_without_offset, dot_halves, tile_of, unpack_of, widen_of
from .jit import entry, inlined
from .simd.half import load_f16
from .simd.rows import load_f16_of_rows, load_sixteen, registers_of
from .simd.vector import (
    bits_0_1,
    bits_2_3,
    bits_4_5,
    bits_6_7,
    high_nibbles,
    i8x16_to_f32,
    load_i8,
    load_i8x16,
    load_i8x32,
    low_nibbles,
    splat_f32x8,
    splat_f32x16,
)

BYTES = 210
QH, SUB_SCALES, SCALE = 128, 192, 208  # where they are in it
OFFSET = 32  # w = d * sub-scale * (code - 32)


@inlined
def _load_four(ql, qh):
    """Codes of four blocks."""
    low, high, top = load_i8x32(ql), load_i8x32(ql + 32), load_i8x32(qh)
    return (
        low_nibbles(low) + bits_0_1(top),
        low_nibbles(high) + bits_2_3(top),
        high_nibbles(low) + bits_4_5(top),
        high_nibbles(high) + bits_6_7(top),
    )


@inlined
def _load_group(w):
    low, high = _load_four(w, w + QH), _load_four(w + 64, w + QH + 32)
    return low, high, load_i8x16(w + SUB_SCALES), splat_f32x8(load_f16(w + SCALE))


@inlined
def _add_group(so_far, weights, x, at):
    low, high, sub_scales, scale = weights
    dots = dot_halves(low, high, sub_scales, x.codes + 8 * at)
    return add_halves_without_offset(so_far, dots, OFFSET, sub_scales, scale, x, at)


@inlined
def _sixteen_codes(place, at, half, side):
    """Sixteen codes each of the four blocks of a half of a super-block: their first or second."""
    ql, qh = at + half * 64 + side * 16, at + QH + half * 32 + side * 16
    low, high = load_sixteen(place, ql), load_sixteen(place, ql + 32)
    top = load_sixteen(place, qh)
    return (
        low_nibbles(low) + bits_0_1(top),
        low_nibbles(high) + bits_2_3(top),
        high_nibbles(low) + bits_4_5(top),
        high_nibbles(high) + bits_6_7(top),
    )


@inlined
def _load_sub_scales(rows, at):
    sub_scales = registers_of(load_sixteen(rows, at + SUB_SCALES))
    return sub_scales, sub_scales


@inlined
def _load_scales(rows, at):
    scales = load_f16_of_rows(rows, at + SCALE)
    return scales, scales


@inlined
def _sixteen_weights(w, number, codes):
    scale = load_f16(w + SCALE) * np.float32(load_i8(w + SUB_SCALES + number))
    return (i8x16_to_f32(codes) - splat_f32x16(np.float32(OFFSET))) * splat_f32x16(scale)


@inlined
def _sixteen_scales(w):
    scales = i8x16_to_f32(load_i8x16(w + SUB_SCALES)) * splat_f32x16(load_f16(w + SCALE))
    return scales, scales


_dot_rows = dot_of(BYTES, _load_group, _add_group)
_tile_rows = tile_of(BYTES, _sixteen_codes, _load_sub_scales, _load_scales, OFFSET)
_unpack_row = unpack_of(BYTES, _sixteen_codes, _sixteen_weights)
_widen_rows = widen_of(BYTES, _sixteen_codes, _sixteen_scales, OFFSET)


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
