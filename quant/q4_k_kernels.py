"""Products on raw Q4_K bytes (layout in q4_k.py), and what those on Q5_K share with them.

A super-block is a group of eight blocks, one a lane. d * s and dmin * m are exact in float32: 11
bits times 6.
"""

import numpy as np

from .jit import entry, inlined, kernel
from .kernels import BLOCK, TILE_ROWS
from .records import activations_at, matrix_at
from .simd.half import load_f16
from .simd.integer import add_halves, add_products, no_nibbles, sum_half_lanes
from .simd.vector import (
    bytes_of,
    fma,
    high_half,
    high_nibbles,
    i8x16_to_f32,
    i32x8_to_f32,
    load_f32,
    load_f32x8,
    load_i8x16,
    load_i8x32,
    load_i32x8,
    load_i64,
    low_half,
    low_nibbles,
    prefetch,
    splat_f32x8,
    splat_f32x16,
    store,
    sum_lanes,
)
from .tile import SCALES, TILE_BLOCK, multiply_tile, scatter_lanes, scatter_scales

BYTES = 144
COLUMNS = 256  # of a super-block
BLOCKS = COLUMNS // BLOCK
QS = 16  # where the codes are in it
AHEAD = 4096  # bytes of prefetch: rows are short, so the hardware's own guess starts late


@inlined
def scales_and_minimums(w):
    """d * s and -dmin * m of the blocks of a super-block: f32x8 each."""
    first, last = load_i64(w + 4), load_i64(w + 8) >> 32 & 0xFFFFFFFF
    low = first & 0x3F3F3F3F3F3F3F3F  # s[0..3] and m[0..3]
    high = first >> 2 & 0x3030303030303030 | (last | last << 28) & 0x0F0F0F0F0F0F0F0F
    both = i8x16_to_f32(bytes_of(low & 0xFFFFFFFF | high << 32, low >> 32 | high >> 32 << 32))
    minus = load_f16(w + 2) * np.float32(-1)
    return splat_f32x8(load_f16(w)) * low_half(both), splat_f32x8(minus) * high_half(both)


@inlined
def _products(codes, x):
    return add_products(no_nibbles(), codes, load_i8x32(x))


@inlined
def _dot_blocks(w, x):
    """The dot products of the eight blocks of a super-block: i32x8."""
    a, b = load_i8x32(w + QS), load_i8x32(w + QS + 32)
    c, d = load_i8x32(w + QS + 64), load_i8x32(w + QS + 96)
    return sum_half_lanes(
        add_halves(_products(low_nibbles(a), x), _products(low_nibbles(c), x + 128)),
        add_halves(_products(high_nibbles(a), x + 32), _products(high_nibbles(c), x + 160)),
        add_halves(_products(low_nibbles(b), x + 64), _products(low_nibbles(d), x + 192)),
        add_halves(_products(high_nibbles(b), x + 96), _products(high_nibbles(d), x + 224)),
    )


def dot_of(dot_blocks, size):
    """`dot` of super-blocks of `size` bytes, given their dot_blocks(w, x) -> i32x8."""

    @kernel
    def dot_row(w, codes, scales, sums, groups):
        total = splat_f32x8(np.float32(0))
        for g in range(groups):
            at = w + g * size
            for line in range(0, size, 64):
                prefetch(at + AHEAD + line)
            dots = dot_blocks(at, codes + g * COLUMNS)
            scale, minimum = scales_and_minimums(at)
            d = load_f32x8(scales + g * 32)
            total = fma(i32x8_to_f32(dots), scale * d, total)
            total = fma(minimum, i32x8_to_f32(load_i32x8(sums + g * 32)) * d, total)
        return sum_lanes(total)

    @kernel
    def dot_rows(matrix, activations, first, last, n, out, out_stride):
        m, x = matrix_at(matrix), activations_at(activations)
        groups = m.cols // COLUMNS
        per_token = x.padded // BLOCK * 4
        for row in range(first, last):
            w = m.data + row * m.row_bytes
            for t in range(n):
                codes = x.codes + t * x.padded
                scales, sums = x.scales + t * per_token, x.sums + t * per_token
                value = dot_row(w, codes, scales, sums, groups)
                store(out + t * out_stride + (row - first) * 4, value)

    return dot_rows


def tile_of(load_codes, size, nothing):
    """`tile` of super-blocks of `size` bytes, given their load_codes(w, pair, side): sixteen codes
    of blocks 2 * pair and 2 * pair + 1, the first or the second; and their empty running sum.
    """

    @kernel
    def unpack_codes(w, to):
        for pair in range(BLOCKS // 2):
            for side in range(2):
                at = to + 2 * pair * TILE_BLOCK + side * (TILE_BLOCK // 2)
                even, odd = load_codes(w, pair, side)
                scatter_lanes(at, even)
                scatter_lanes(at + TILE_BLOCK, odd)

    @kernel
    def tile_rows(matrix, activations, first, last, n, out, out_stride, scratch):
        m = matrix_at(matrix)
        blocks = m.cols // BLOCK
        scales = scratch + blocks * TILE_BLOCK
        minimums = scales + blocks * SCALES
        for start in range(first, last, TILE_ROWS):
            rows = min(TILE_ROWS, last - start)
            for r in range(rows):
                for block in range(0, blocks, BLOCKS):
                    w = m.data + (start + r) * m.row_bytes + block // BLOCKS * size
                    unpack_codes(w, scratch + block * TILE_BLOCK + r * 4)
                    scale, minimum = scales_and_minimums(w)
                    scatter_scales(scales + block * SCALES + r * 4, scale)
                    scatter_scales(minimums + block * SCALES + r * 4, minimum)
            to = out + (start - first) * 4
            multiply_tile(nothing(), None, scratch, blocks, rows, activations, n, to, out_stride)

    return tile_rows


@inlined
def _store_weights(to, codes, at):
    scale, minimum = splat_f32x16(load_f32(at)), splat_f32x16(load_f32(at + 32))
    store(to, i8x16_to_f32(codes) * scale + minimum)


def unpack_of(load_codes, size):
    """`unpack` of super-blocks of `size` bytes; load_codes as in tile_of."""

    @kernel
    def unpack_row(matrix, row, out, scratch):
        m = matrix_at(matrix)
        for group in range(m.cols // COLUMNS):
            w = m.data + row * m.row_bytes + group * size
            scale, minimum = scales_and_minimums(w)
            store(scratch, scale)
            store(scratch + 32, minimum)
            for pair in range(BLOCKS // 2):
                for side in range(2):
                    to = out + (group * COLUMNS + pair * 64 + side * 16) * 4
                    even, odd = load_codes(w, pair, side)
                    _store_weights(to, even, scratch + pair * 8)
                    _store_weights(to + BLOCK * 4, odd, scratch + pair * 8 + 4)

    return unpack_row


@inlined
def _load_codes(w, pair, side):
    q = load_i8x16(w + QS + pair * 32 + side * 16)
    return low_nibbles(q), high_nibbles(q)


_dot_rows = dot_of(_dot_blocks, BYTES)
_tile_rows = tile_of(_load_codes, BYTES, no_nibbles)
_unpack_row = unpack_of(_load_codes, BYTES)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_rows(matrix, activations, first, last, n, out, out_stride)


@entry
def tile(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_rows(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack(matrix, row, out, scratch):
    _unpack_row(matrix, row, out, scratch)
