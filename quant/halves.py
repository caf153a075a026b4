"""What Q6_K, Q3_K and Q2_K share: the halves of a block have sub-scales of their own.

The exact integer of a block is a * dot_a + b * dot_b, of the sub-scales and the dot products of its
halves; a super-block is a group of eight blocks. A tile (see tile.py) has codes 0..63, and behind
them for each block and row

    sub-scales  (blocks, 16, 2) int16         of the first and the second half of the block
    minimums    (blocks, 16, 2) int16         the same, where the format has them
    scales      (blocks / 8, 16) float32
                (blocks / 8, 16) float32      of the minimums, where the format has them
"""

import numpy as np

from .jit import inlined, kernel
from .kernels import BLOCK, TILE_ROWS, TILE_TOKENS
from .records import activations_at, matrix_at
from .simd.bfloat import narrow_to_bf16
from .simd.integer import add_halves, add_scaled, dot2, dot4_unsigned, sum_scaled_lanes
from .simd.rows import first_pairs, last_pairs, store_pieces
from .simd.vector import (
    even_lanes_twice,
    fma,
    high_half,
    i8x16_to_f32,
    i8x16_to_i16,
    i32x8_to_f32,
    load_f32,
    load_f32x8,
    load_i8x32,
    load_i16x16,
    load_i32,
    low_half,
    odd_lanes_twice,
    prefetch,
    splat_f32x8,
    splat_f32x16,
    splat_four_bytes,
    splat_i8x16,
    splat_i32x8,
    splat_pair,
    store,
    unknown,
)
from .tile import (
    CLASS_BYTES,
    EIGHT,
    GROUP,
    LANE,
    PIECE,
    TILE_BLOCK,
    WIDE,
    prefetch_lines,
    rows_from,
    share_of,
    store_eight,
    store_sums,
)
from .wide_halves import sum_wide_halves

COLUMNS = 256  # of a super-block
PAIRS = TILE_ROWS * 4  # bytes of the sub-scales of a block of all rows
SCALES = TILE_ROWS * 4  # bytes of the scales of a group of all rows


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
def _add_block(so_far, offset, w, sub_scales, scale, minimums, minimum, x, block, token):
    """A block of eight rows and of a token, in the order that kernels.py states."""
    codes = x.codes + token * x.padded + block * BLOCK
    place = (token * (x.padded // BLOCK) + block) * 4
    dots = _add_half(splat_i32x8(np.int32(0)), w, codes, even_lanes_twice(sub_scales))
    dots = _add_half(dots, w + 4 * PIECE, codes + 16, odd_lanes_twice(sub_scales))
    half_sums, d = (
        splat_pair(load_i32(x.half_sums + place)),
        splat_f32x8(load_f32(x.scales + place)),
    )
    if offset is None:
        so_far = fma(i32x8_to_f32(dots), scale * d, so_far)
        excess = dot2(load_i16x16(minimums), half_sums)
        return fma(load_f32x8(minimum), i32x8_to_f32(excess) * d, so_far)
    exact = dots - dot2(sub_scales, half_sums) * splat_i32x8(np.int32(offset))
    return fma(i32x8_to_f32(exact), scale * d, so_far)


@kernel
def _sum_class(offset, w, pairs, scales, blocks, first, x, c0, c1, c2, c3, out):
    """Blocks first, first + 8, ... of eight rows times four tokens, to out (4, 16) float32."""
    a = b = c = d = splat_f32x8(np.float32(0))
    for block in range(first, blocks, GROUP):
        at = w + block * TILE_BLOCK
        s = load_i16x16(pairs + block * PAIRS)
        scale = load_f32x8(scales + block // GROUP * SCALES)
        m = pairs + (blocks + block) * PAIRS
        minimum = scales + (blocks + block) // GROUP * SCALES
        a = _add_block(a, offset, at, s, scale, m, minimum, x, block, c0)
        b = _add_block(b, offset, at, s, scale, m, minimum, x, block, c1)
        c = _add_block(c, offset, at, s, scale, m, minimum, x, block, c2)
        d = _add_block(d, offset, at, s, scale, m, minimum, x, block, c3)
    store(out, a)
    store(out + TILE_ROWS * 4, b)
    store(out + 2 * TILE_ROWS * 4, c)
    store(out + 3 * TILE_ROWS * 4, d)


@kernel
def _multiply(
    offset, tile, pairs, scales, classes, blocks, rows, x, n, out, out_stride, ahead, size
):
    if WIDE:
        more = classes + GROUP * CLASS_BYTES
        share = share_of(size, GROUP, (n + 1) // 2)
        for first in range(0, n, 2 * TILE_TOKENS):
            for number in range(unknown(GROUP)):
                prefetch_lines(ahead, share)
                ahead += share
                to, beyond = classes + number * CLASS_BYTES, more + number * CLASS_BYTES
                sum_wide_halves(
                    offset, tile, pairs, scales, number, blocks, GROUP, x, first, n - 1, to, beyond
                )
            store_eight(classes, more, rows, n - first, out + first * out_stride, out_stride)
        return
    share = share_of(size, 2 * GROUP, n)
    last = n - 1  # a short group repeats its last token and keeps what is its own
    for t in range(0, n, TILE_TOKENS):
        c1, c2, c3 = min(t + 1, last), min(t + 2, last), min(t + 3, last)
        for number in range(unknown(GROUP)):  # unrolled, it is eight times the code
            for eight in (0, 32):  # bytes of eight rows, in codes and in scales alike
                prefetch_lines(ahead, share)
                ahead += share
                to = classes + number * CLASS_BYTES + eight
                _sum_class(
                    offset, tile + eight, pairs + eight, scales + eight, blocks, number, x,
                    t, c1, c2, c3, to,
                )  # fmt: skip
        store_sums(classes, rows, min(TILE_TOKENS, n - t), out + t * out_stride, out_stride)


# dot


@inlined
def _dot_four(codes, sub_scales, x):
    """Four blocks: their first halves, then their second."""
    a, b, c, d = codes
    return sum_scaled_lanes(
        dot4_unsigned(a, load_i8x32(x)),
        dot4_unsigned(b, load_i8x32(x + 32)),
        dot4_unsigned(c, load_i8x32(x + 64)),
        dot4_unsigned(d, load_i8x32(x + 96)),
        sub_scales,
    )


@inlined
def dot_halves(first, last, sub_scales, x):
    """Eight blocks, the first four and the last, times the codes at x: i32x8."""
    low = _dot_four(first, low_half(sub_scales), x)
    return add_halves(low, _dot_four(last, high_half(sub_scales), x + 128))


@inlined
def add_halves_without_offset(so_far, dots, offset, sub_scales, scale, x, at):
    """so_far + scale * (dots - offset * sums times sub-scales), of activations with a scale."""
    excess = dot2(load_i16x16(x.half_sums + at), i8x16_to_i16(sub_scales))
    exact = dots - excess * splat_i32x8(np.int32(offset))
    return fma(i32x8_to_f32(exact), scale * load_f32x8(x.scales + at), so_far)


# tile


def tile_of(size, sixteen_codes, load_sub_scales, load_scales, offset):
    """`tile` of super-blocks of `size` bytes. A weight is scale * sub-scale * (code - offset); or
    scale * sub-scale * code + minimum, and offset is None.

    Of eight rows (see simd/rows.py) and the super-block at an offset from them:
    sixteen_codes(rows, at, half, side): of each of the four blocks of a half of a super-block, the
    codes of their first or second half. load_sub_scales(rows, at): sub-scales and minimums, a
    tuple of four i8x32 each. load_scales(rows, at): their scales, f32x8 each.
    """
    kinds = 2 if offset is None else 1

    @inlined
    def store_pairs(to, four):
        a, b, c, d = four
        store(to, first_pairs(a))
        store(to + PAIRS, last_pairs(a))
        store(to + 2 * PAIRS, first_pairs(b))
        store(to + 3 * PAIRS, last_pairs(b))
        store(to + 4 * PAIRS, first_pairs(c))
        store(to + 5 * PAIRS, last_pairs(c))
        store(to + 6 * PAIRS, first_pairs(d))
        store(to + 7 * PAIRS, last_pairs(d))

    @kernel
    def unpack_rows(rows, groups, codes, pairs, scales):
        for group in range(groups):
            at, number = group * size, group * GROUP
            for half in range(2):
                for side in range(2):
                    a, b, c, d = sixteen_codes(rows, at, half, side)
                    to = codes + (number + half * 4) * TILE_BLOCK + side * (TILE_BLOCK // 2)
                    store_pieces(to, a)
                    store_pieces(to + TILE_BLOCK, b)
                    store_pieces(to + 2 * TILE_BLOCK, c)
                    store_pieces(to + 3 * TILE_BLOCK, d)
            sub_scales, minimums = load_sub_scales(rows, at)
            scale, minimum = load_scales(rows, at)
            store_pairs(pairs + number * PAIRS, sub_scales)
            store(scales + group * SCALES, scale)
            if offset is None:
                store_pairs(pairs + (groups * GROUP + number) * PAIRS, minimums)
                store(scales + (groups + group) * SCALES, minimum)

    @kernel
    def tile_rows(matrix, activations, first, last, n, out, out_stride, scratch):
        m, x = matrix_at(matrix), activations_at(activations)
        blocks = m.cols // BLOCK
        groups = blocks // GROUP
        pairs = scratch + blocks * TILE_BLOCK
        scales = pairs + kinds * blocks * PAIRS
        classes = scales + kinds * groups * SCALES
        for start in range(first, last, EIGHT):
            number = (start - first) % TILE_ROWS
            at, n_rows = number * LANE, min(number + EIGHT, last - start + number)
            unpack_rows(rows_from(m, start, last), groups, scratch + at, pairs + at, scales + at)
            if number or start + EIGHT >= last:
                to = out + (start - number - first) * 4
                next_rows = m.data + (start + EIGHT) * m.row_bytes
                n_bytes = min(TILE_ROWS, last - start - EIGHT) * m.row_bytes
                _multiply(
                    offset, scratch, pairs, scales, classes, blocks, n_rows, x, n, to, out_stride,
                    next_rows, n_bytes,
                )  # fmt: skip

    return tile_rows


def unpack_of(size, sixteen_codes, sixteen_weights):
    """`unpack` of super-blocks of `size` bytes.

    sixteen_codes as in tile_of; sixteen_weights(w, number, codes) of a sub-block: f32x16.
    """

    @inlined
    def store_weights(to, codes, w, number):
        store(to, sixteen_weights(w, number, codes))

    @kernel
    def unpack_row(matrix, row, out):
        m = matrix_at(matrix)
        for group in range(m.cols // COLUMNS):
            w = m.data + row * m.row_bytes + group * size
            for half in range(2):
                for side in range(2):
                    number = half * 8 + side
                    to = out + (group * COLUMNS + half * 128 + side * 16) * 4
                    a, b, c, d = sixteen_codes(w, 0, half, side)
                    store_weights(to, a, w, number)
                    store_weights(to + 128, b, w, number + 2)
                    store_weights(to + 256, c, w, number + 4)
                    store_weights(to + 384, d, w, number + 6)

    return unpack_row


def widen_of(size, sixteen_codes, load_scales, offset):
    """`widen` of super-blocks of `size` bytes. A weight is scale * (code - offset); or
    scale * code + minimum, and offset is None.

    sixteen_codes as in tile_of; load_scales(w): the sixteen scales of the sub-blocks, times that of
    the super-block, and minimums, f32x16 each.
    """

    @inlined
    def weights_of(codes, at):
        scale = splat_f32x16(load_f32(at))
        if offset is None:
            return fma(i8x16_to_f32(codes), scale, splat_f32x16(load_f32(at + 64)))
        return i8x16_to_f32(codes - splat_i8x16(np.int8(offset))) * scale

    @inlined
    def store_block(to, first, second, at):
        store(to, narrow_to_bf16(weights_of(first, at), weights_of(second, at + 4)))

    @kernel
    def widen_rows(matrix, first, last, out, out_stride, scratch):
        m = matrix_at(matrix)
        for row in range(first, last):
            w, to = m.data + row * m.row_bytes, out + (row - first) * out_stride
            for _ in range(m.cols // COLUMNS):
                for line in range(0, size, 64):
                    prefetch(w + 2 * m.row_bytes + line)
                scales, minimums = load_scales(w)
                store(scratch, scales)
                store(scratch + 64, minimums)
                for half in range(2):
                    a, b, c, d = sixteen_codes(w, 0, half, 0)
                    e, f, g, h = sixteen_codes(w, 0, half, 1)
                    at = scratch + half * 32
                    store_block(to, a, e, at)
                    store_block(to + 64, b, f, at + 8)
                    store_block(to + 128, c, g, at + 16)
                    store_block(to + 192, d, h, at + 24)
                    to += 256
                w += size

    return widen_rows
