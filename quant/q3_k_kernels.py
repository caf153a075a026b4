"""Products on raw Q3_K bytes (layout in q3_k.py)."""

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
    bytes_of,
    high_nibbles,
    i8x16_to_f32,
    load_i8,
    load_i8x32,
    load_i64,
    low_nibbles,
    splat_f32x8,
    splat_f32x16,
    splat_i8x16,
    splat_i8x32,
    take_bits,
)

BYTES = 110
QS, SUB_SCALES, SCALE = 32, 96, 108  # where they are in a super-block
OFFSET = 4  # w = d * (sub-scale - 32) * (code - 4)


@inlined
def _sub_scales(w):
    """The sixteen sub-scales, less 32: i8x16."""
    low, high = load_i64(w + SUB_SCALES), load_i64(w + SUB_SCALES + 4) >> 32 & 0xFFFFFFFF
    high |= high << 30  # bits 0 and 1 of its bytes belong to s[0..7], bits 4 and 5 to s[8..15]
    first = low & 0x0F0F0F0F0F0F0F0F | (high & 0x0303030303030303) << 4
    second = low >> 4 & 0x0F0F0F0F0F0F0F0F | high & 0x3030303030303030
    return bytes_of(first, second) - splat_i8x16(np.int8(32))


@inlined
def _codes(q, top, number, block):
    """Codes of block `number` of a half, of which `block` is the number in the super-block."""
    return take_bits(q, 2 * number, 3, 0) + take_bits(top, block, 1, 2)


@inlined
def _load_four(w, half):
    """Codes of four blocks."""
    q, top = load_i8x32(w + QS + half * 32), load_i8x32(w)
    return (
        _codes(q, top, 0, 4 * half),
        _codes(q, top, 1, 4 * half + 1),
        _codes(q, top, 2, 4 * half + 2),
        _codes(q, top, 3, 4 * half + 3),
    )


@inlined
def _load_group(w):
    return _load_four(w, 0), _load_four(w, 1), _sub_scales(w), splat_f32x8(load_f16(w + SCALE))


@inlined
def _add_group(so_far, weights, x, at):
    low, high, sub_scales, scale = weights
    dots = dot_halves(low, high, sub_scales, x.codes + 8 * at)
    return add_halves_without_offset(so_far, dots, OFFSET, sub_scales, scale, x, at)


@inlined
def _sixteen_codes(place, at, half, side):
    q = load_sixteen(place, at + QS + half * 32 + side * 16)
    top = load_sixteen(place, at + side * 16)
    return (
        _codes(q, top, 0, 4 * half),
        _codes(q, top, 1, 4 * half + 1),
        _codes(q, top, 2, 4 * half + 2),
        _codes(q, top, 3, 4 * half + 3),
    )


@inlined
def _load_sub_scales(rows, at):
    _, low, high, top = registers_of(load_sixteen(rows, at + SUB_SCALES - 4))
    less = splat_i8x32(np.int8(32))
    sub_scales = (
        low_nibbles(low) + bits_0_1(top) - less,
        low_nibbles(high) + bits_2_3(top) - less,
        high_nibbles(low) + bits_4_5(top) - less,
        high_nibbles(high) + bits_6_7(top) - less,
    )
    return sub_scales, sub_scales


@inlined
def _load_scales(rows, at):
    scales = load_f16_of_rows(rows, at + SCALE)
    return scales, scales


@inlined
def _sub_scale(w, number):
    """One of the sixteen, less 32."""
    low = load_i8(w + SUB_SCALES + number % 8) >> (number // 8 * 4) & 15
    high = load_i8(w + SUB_SCALES + 8 + number % 4) >> (number // 4 * 2) & 3
    return low + 16 * high - 32


@inlined
def _sixteen_weights(w, number, codes):
    scale = load_f16(w + SCALE) * np.float32(_sub_scale(w, number))
    return (i8x16_to_f32(codes) - splat_f32x16(np.float32(OFFSET))) * splat_f32x16(scale)


@inlined
def _sixteen_scales(w):
    scales = i8x16_to_f32(_sub_scales(w)) * splat_f32x16(load_f16(w + SCALE))
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
