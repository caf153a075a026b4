"""Products on raw Q6_K bytes (layout in q6_k.py).

The exact integer of a block is at most 32 * 32 * 127 * 128 = 16.6 million, less than 2 ** 24, so
that it is exact as float32 too.
"""

import numpy as np

from .activations import largest_magnitude
from .halves import COLUMNS, dot_of, tile_of, unpack_of
from .jit import entry, inlined, kernel
from .kernels import ProductKernels
from .q6_k import ABOVE, BELOW, LARGEST
from .simd.half import load_f16, store_f16
from .simd.integer import add_halves, dot2, dot4_unsigned, sum_scaled_lanes
from .simd.vector import (
    bits_0_1,
    bits_2_3,
    bits_4_5,
    bits_6_7,
    f32x16_to_i32,
    first_lane_with_magnitude,
    fma,
    high_half,
    high_nibbles,
    i8x16_to_f32,
    i8x16_to_i16,
    i32x8_to_f32,
    i32x16_to_i8,
    join_nibbles,
    larger,
    load_f32,
    load_f32x8,
    load_f32x16,
    load_i8,
    load_i8x16,
    load_i8x32,
    load_i16x16,
    low_half,
    low_nibbles,
    max_lanes,
    round_even,
    smaller,
    splat_f32x8,
    splat_f32x16,
    splat_i32x8,
    store,
    sum_lanes,
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


@inlined
def _peak(values):
    """Of 16 float32 the first of largest magnitude; NaN when there is one."""
    v = load_f32x16(values)
    size = largest_magnitude(v, v)
    place = first_lane_with_magnitude(v, size)
    return size if place == 16 else load_f32(values + place * 4)


@inlined
def _nearest(value):
    return max_lanes(round_even(splat_f32x16(value)))


@kernel
def _search(values, d):
    """(codes -32..31, sub-scale) of 16 float32: the search that q6_k.py describes."""
    v = load_f32x16(values)
    own = _nearest(_peak(values) / (np.float32(-32) * d))
    step = np.float32(-1) if own < 0 else np.float32(1)
    codes, sub_scale = splat_f32x16(np.float32(0)), np.float32(0)
    least = sum_lanes(v * v)
    for more in range(-BELOW, ABOVE + 1):
        s = own + np.float32(more) * step
        s = min(max(s, np.float32(-128)), np.float32(127))
        scale = d * s
        q = round_even(v * splat_f32x16(np.float32(1) / scale))
        q = larger(smaller(q, splat_f32x16(np.float32(31))), splat_f32x16(np.float32(-32)))
        miss = v - splat_f32x16(scale) * q
        error = sum_lanes(miss * miss)
        if error < least:
            least, codes, sub_scale = error, q, s
    return codes, sub_scale


@kernel
def _pack_sixteen(values, d, sub_scale_at):
    """Codes 0..63 of 16 float32, as i8x16; their sub-scale goes to its place."""
    codes, sub_scale = _search(values, d)
    store(sub_scale_at, np.int8(sub_scale))
    return i32x16_to_i8(f32x16_to_i32(codes + splat_f32x16(np.float32(OFFSET))))


@inlined
def _join_pairs(low, high):
    """Bits 4 and 5 of low, and those of high above them."""
    above = high_nibbles(high)
    return high_nibbles(low) + above + above + above + above


@entry
def pack(values, n_blocks, out):
    for block in range(n_blocks):
        x, to = values + block * COLUMNS * 4, out + block * BYTES
        top = _peak(x)
        for i in range(1, COLUMNS // 16):
            peak = _peak(x + i * 64)
            if abs(peak) > abs(top) or peak != peak:
                top = peak
        store_f16(to + SCALE, top / np.float32(-32 * LARGEST))
        d = load_f16(to + SCALE)
        for half in range(2):
            for side in range(2):
                at, s = x + (half * 128 + side * 16) * 4, to + SUB_SCALES + half * 8 + side
                a = _pack_sixteen(at, d, s)
                b = _pack_sixteen(at + 128, d, s + 2)
                c = _pack_sixteen(at + 256, d, s + 4)
                e = _pack_sixteen(at + 384, d, s + 6)
                ql, qh = to + half * 64 + side * 16, to + QH + half * 32 + side * 16
                store(ql, join_nibbles(low_nibbles(a), low_nibbles(c)))
                store(ql + 32, join_nibbles(low_nibbles(b), low_nibbles(e)))
                store(qh, join_nibbles(_join_pairs(a, b), _join_pairs(c, e)))


PRODUCTS = {"Q6_K": ProductKernels(dot, tile, unpack, pack, quantized=True)}
