"""Products on raw Q3_K bytes (layout in q3_k.py)."""

import numpy as np

from .halves import dot_of, tile_of, unpack_of
from .jit import entry, inlined
from .simd.half import load_f16
from .simd.integer import add_halves, dot2, dot4_unsigned, sum_scaled_lanes
from .simd.vector import (
    bytes_of,
    fma,
    high_half,
    i8x16_to_f32,
    i8x16_to_i16,
    i32x8_to_f32,
    load_f32x8,
    load_i8,
    load_i8x16,
    load_i8x32,
    load_i16x16,
    load_i64,
    low_half,
    splat_f32x8,
    splat_f32x16,
    splat_i8x16,
    splat_i32x8,
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
def _dot_four(w, half, x, sub_scales):
    """Four blocks, without the offset: their first halves, then their second."""
    q, top = load_i8x32(w + QS + half * 32), load_i8x32(w)
    return sum_scaled_lanes(
        dot4_unsigned(_codes(q, top, 0, 4 * half), load_i8x32(x)),
        dot4_unsigned(_codes(q, top, 1, 4 * half + 1), load_i8x32(x + 32)),
        dot4_unsigned(_codes(q, top, 2, 4 * half + 2), load_i8x32(x + 64)),
        dot4_unsigned(_codes(q, top, 3, 4 * half + 3), load_i8x32(x + 96)),
        sub_scales,
    )


@inlined
def _add_group(so_far, w, codes, scales, half_sums):
    sub_scales = _sub_scales(w)
    dots = add_halves(
        _dot_four(w, 0, codes, low_half(sub_scales)),
        _dot_four(w, 1, codes + 128, high_half(sub_scales)),
    )
    excess = dot2(load_i16x16(half_sums), i8x16_to_i16(sub_scales))
    exact = dots - excess * splat_i32x8(np.int32(OFFSET))
    return fma(i32x8_to_f32(exact), splat_f32x8(load_f16(w + SCALE)) * load_f32x8(scales), so_far)


@inlined
def _sixteen_codes(w, half, side):
    q, top = load_i8x16(w + QS + half * 32 + side * 16), load_i8x16(w + side * 16)
    return (
        _codes(q, top, 0, 4 * half),
        _codes(q, top, 1, 4 * half + 1),
        _codes(q, top, 2, 4 * half + 2),
        _codes(q, top, 3, 4 * half + 3),
    )


@inlined
def _load_sub_scales(w):
    sub_scales = i8x16_to_i16(_sub_scales(w))
    return sub_scales, sub_scales


@inlined
def _load_scales(w):
    return load_f16(w + SCALE), np.float32(0)


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
