"""Products on raw Q6_K bytes (layout in q6_k.py).

The exact integer of a block of 32 is a * dot_a + b * dot_b, of the sub-scales and the dot products
of its halves of 16. Its magnitude is at most 32 * 32 * 127 * 128 = 16.6 million, less than 2 ** 24,
so that it is exact as float32 too. A super-block is a group of eight blocks, one a lane.
"""

import numpy as np

from .activations import largest_magnitude
from .jit import entry, inlined, kernel
from .kernels import BLOCK, TILE_ROWS, TILE_TOKENS, ProductKernels
from .q6_k import ABOVE, BELOW, LARGEST
from .records import activations_at, matrix_at
from .simd.half import load_f16, store_f16
from .simd.integer import add_halves, add_scaled, dot2, dot4_unsigned, sum_scaled_lanes
from .simd.vector import (
    bits_0_1,
    bits_2_3,
    bits_4_5,
    bits_6_7,
    even_lanes_twice,
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
    load_i32,
    low_half,
    low_nibbles,
    max_lanes,
    odd_lanes_twice,
    prefetch,
    round_even,
    smaller,
    splat_f32x8,
    splat_f32x16,
    splat_four_bytes,
    splat_i32x8,
    splat_pair,
    store,
    sum_lanes,
)
from .tile import CLASS_BYTES, GROUP, PIECE, TILE_BLOCK, scatter_lanes, store_sums

BYTES = 210
COLUMNS = 256  # of a super-block
QH, SUB_SCALES, SCALE = 128, 192, 208  # where they are in it
OFFSET = 32  # w = d * sub-scale * (code - 32)
AHEAD = 4096  # bytes of prefetch: rows are short, so the hardware's own guess starts late


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


@kernel
def _dot_row(w, codes, scales, half_sums, groups):
    total = splat_f32x8(np.float32(0))
    for g in range(groups):
        at = w + g * BYTES
        for line in range(0, BYTES, 64):
            prefetch(at + AHEAD + line)
        total = _add_group(total, at, codes + g * COLUMNS, scales + g * 32, half_sums + g * 32)
    return sum_lanes(total)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    m, x = matrix_at(matrix), activations_at(activations)
    groups = m.cols // COLUMNS
    per_token = x.padded // BLOCK * 4
    for row in range(first, last):
        w = m.data + row * m.row_bytes
        for t in range(n):
            codes = x.codes + t * x.padded
            scales, half_sums = x.scales + t * per_token, x.half_sums + t * per_token
            value = _dot_row(w, codes, scales, half_sums, groups)
            store(out + t * out_stride + (row - first) * 4, value)


# The tile: codes as in tile.py, here 0..63; then for each block and row
#     sub-scales  (blocks, 16, 2) int16     of the first and the second half of the block
#     scales      (blocks / 8, 16) float32


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


@kernel
def _unpack_group(w, to):
    """A super-block to the place of its row and first column in the tile."""
    for half in range(2):
        for side in range(2):
            at = to + half * 4 * TILE_BLOCK + side * (TILE_BLOCK // 2)
            a, b, c, d = _sixteen_codes(w, half, side)
            scatter_lanes(at, a)
            scatter_lanes(at + TILE_BLOCK, b)
            scatter_lanes(at + 2 * TILE_BLOCK, c)
            scatter_lanes(at + 3 * TILE_BLOCK, d)


@inlined
def _spread(codes, column):
    return splat_four_bytes(load_i32(codes + column))


@inlined
def _add_half(so_far, w, x, scales):
    """Sixteen columns of eight rows and of a token, times the sub-scales of the rows."""
    return add_scaled(
        so_far,
        load_i8x32(w),
        _spread(x, 0),
        load_i8x32(w + PIECE),
        _spread(x, 4),
        load_i8x32(w + 2 * PIECE),
        _spread(x, 8),
        load_i8x32(w + 3 * PIECE),
        _spread(x, 12),
        scales,
    )


@inlined
def _add_block(so_far, w, sub_scales, scale, x, block, token):
    """A block of eight rows and of a token."""
    codes = x.codes + token * x.padded + block * BLOCK
    place = (token * (x.padded // BLOCK) + block) * 4
    dots = _add_half(splat_i32x8(np.int32(0)), w, codes, even_lanes_twice(sub_scales))
    dots = _add_half(dots, w + 4 * PIECE, codes + 16, odd_lanes_twice(sub_scales))
    excess = dot2(sub_scales, splat_pair(load_i32(x.half_sums + place)))
    exact = dots - excess * splat_i32x8(np.int32(OFFSET))
    return fma(i32x8_to_f32(exact), scale * splat_f32x8(load_f32(x.scales + place)), so_far)


@kernel
def _sum_class(w, sub_scales, scales, first, blocks, x, c0, c1, c2, c3, out):
    """Blocks first, first + 8, ... of eight rows times four tokens, to out (4, 16) float32."""
    a = b = c = d = splat_f32x8(np.float32(0))
    for block in range(first, blocks, GROUP):
        at = w + block * TILE_BLOCK
        s = load_i16x16(sub_scales + block * TILE_ROWS * 4)
        scale = load_f32x8(scales + block // GROUP * TILE_ROWS * 4)
        a = _add_block(a, at, s, scale, x, block, c0)
        b = _add_block(b, at, s, scale, x, block, c1)
        c = _add_block(c, at, s, scale, x, block, c2)
        d = _add_block(d, at, s, scale, x, block, c3)
    store(out, a)
    store(out + TILE_ROWS * 4, b)
    store(out + 2 * TILE_ROWS * 4, c)
    store(out + 3 * TILE_ROWS * 4, d)


@kernel
def _multiply_tile(tile, sub_scales, scales, classes, blocks, rows, x, n, out, out_stride):
    last = n - 1  # a short group repeats its last token and keeps what is its own
    for t in range(0, n, TILE_TOKENS):
        c1, c2, c3 = min(t + 1, last), min(t + 2, last), min(t + 3, last)
        for number in range(GROUP):
            for eight in (0, 32):  # bytes of eight rows, in codes and in scales alike
                to = classes + number * CLASS_BYTES + eight
                _sum_class(
                    tile + eight, sub_scales + eight, scales + eight, number, blocks, x,
                    t, c1, c2, c3, to,
                )  # fmt: skip
        store_sums(classes, rows, min(TILE_TOKENS, n - t), out + t * out_stride, out_stride)


@entry
def tile(matrix, activations, first, last, n, out, out_stride, scratch):
    m, x = matrix_at(matrix), activations_at(activations)
    blocks = m.cols // BLOCK
    sub_scales = scratch + blocks * TILE_BLOCK
    scales = sub_scales + blocks * TILE_ROWS * 4
    classes = scales + blocks // GROUP * TILE_ROWS * 4
    for start in range(first, last, TILE_ROWS):
        rows = min(TILE_ROWS, last - start)
        for r in range(rows):
            for group in range(blocks // GROUP):
                w = m.data + (start + r) * m.row_bytes + group * BYTES
                _unpack_group(w, scratch + group * GROUP * TILE_BLOCK + r * 4)
                store(scales + (group * TILE_ROWS + r) * 4, load_f16(w + SCALE))
                to = sub_scales + (group * GROUP * TILE_ROWS + r) * 4
                for i in range(GROUP):
                    s = w + SUB_SCALES + 2 * i
                    store(to + i * TILE_ROWS * 4, np.int16(load_i8(s)))
                    store(to + i * TILE_ROWS * 4 + 2, np.int16(load_i8(s + 1)))
        to = out + (start - first) * 4
        _multiply_tile(scratch, sub_scales, scales, classes, blocks, rows, x, n, to, out_stride)


@inlined
def _store_weights(to, codes, scale):
    whole = i8x16_to_f32(codes) - splat_f32x16(np.float32(OFFSET))
    store(to, whole * splat_f32x16(scale))


@entry
def unpack(matrix, row, out, scratch):
    m = matrix_at(matrix)
    for group in range(m.cols // COLUMNS):
        w = m.data + row * m.row_bytes + group * BYTES
        d = load_f16(w + SCALE)
        for half in range(2):
            for side in range(2):
                s = w + SUB_SCALES + half * 8 + side
                to = out + (group * COLUMNS + half * 128 + side * 16) * 4
                a, b, c, e = _sixteen_codes(w, half, side)
                _store_weights(to, a, d * np.float32(load_i8(s)))
                _store_weights(to + 128, b, d * np.float32(load_i8(s + 2)))
                _store_weights(to + 256, c, d * np.float32(load_i8(s + 4)))
                _store_weights(to + 384, e, d * np.float32(load_i8(s + 6)))


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
