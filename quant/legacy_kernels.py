"""Products on raw Q4_1, Q5_0 and Q5_1 bytes (layouts in q4_1.py, q5_0.py, q5_1.py).

The three differ in their codes, 4 bits or 5, and in what code 0 stands for: a minimum that the
block states, or -16 times its scale.
"""

import numpy as np

from .activations import largest_magnitude
from .jit import entry, inlined, kernel
from .kernels import BLOCK, TILE_ROWS
from .memory import copy_bytes, zero_bytes
from .records import activations_at, matrix_at
from .simd.half import (
    load_8_scales_20,
    load_8_scales_22,
    load_8_scales_24,
    load_f16,
    store_f16,
)
from .simd.integer import add_halves, add_products, no_fives, no_nibbles, sum_half_lanes
from .simd.vector import (
    between,
    bits_as_bytes,
    bytes_as_bits,
    f32x16_to_i32,
    first_lane_equal_to,
    first_lane_with_magnitude,
    fma,
    high_half,
    high_nibbles,
    i8x16_to_f32,
    i32x8_to_f32,
    i32x16_to_i8,
    join,
    join_nibbles,
    larger,
    load_f32,
    load_f32x8,
    load_f32x16,
    load_i8x16,
    load_i8x32,
    load_i32,
    load_i32x8,
    low_half,
    low_nibbles,
    max_lanes,
    min_lanes,
    prefetch,
    smaller,
    smaller_int,
    splat_f32x8,
    splat_f32x16,
    splat_i32x8,
    splat_i32x16,
    store,
    sum_lanes,
)
from .tile import SCALES, TILE_BLOCK, multiply_tile, scatter_lanes

Q4_1_BYTES, Q5_0_BYTES, Q5_1_BYTES = 20, 22, 24
GROUP = 8  # blocks taken at once
GROUP_COLUMNS = GROUP * BLOCK
OFFSET = 16  # of Q5_0: w = d * (code - 16)
AHEAD = 4096  # bytes of prefetch: rows are short, so the hardware's own guess starts late


@inlined
def _load_nibbles(at):
    """32 codes in their order: i8x32."""
    q = load_i8x16(at)
    return join(low_nibbles(q), high_nibbles(q))


@inlined
def _load_fives(at):
    """The same of five bits."""
    return _load_nibbles(at + 4) + bits_as_bytes(load_i32(at))


@inlined
def _codes_of_q4_1(w):
    return _load_nibbles(w + 4)


@inlined
def _codes_of_q5_0(w):
    return _load_fives(w + 2)


@inlined
def _codes_of_q5_1(w):
    return _load_fives(w + 4)


# dot


@inlined
def _add_with_minimum(so_far, dots, scale, minimum, d, sums):
    so_far = fma(i32x8_to_f32(dots), scale * d, so_far)
    return fma(minimum, i32x8_to_f32(load_i32x8(sums)) * d, so_far)


@inlined
def _add_q4_1(so_far, dots, w, d, sums):
    return _add_with_minimum(so_far, dots, load_8_scales_20(w), load_8_scales_20(w + 2), d, sums)


@inlined
def _add_q5_1(so_far, dots, w, d, sums):
    return _add_with_minimum(so_far, dots, load_8_scales_24(w), load_8_scales_24(w + 2), d, sums)


@inlined
def _add_q5_0(so_far, dots, w, d, sums):
    exact = dots - load_i32x8(sums) * splat_i32x8(np.int32(OFFSET))
    return fma(i32x8_to_f32(exact), load_8_scales_22(w) * d, so_far)


def _dot_of(size, load_codes, nothing, add):
    """`dot` of blocks of `size` bytes; add(so_far, dots, w, scales of x, sums) takes eight."""

    @inlined
    def two_blocks(w, x):
        """Blocks 0 and 4 times their codes: one in each half of the lanes."""
        low = add_products(nothing(), load_codes(w), load_i8x32(x))
        high = add_products(nothing(), load_codes(w + 4 * size), load_i8x32(x + 4 * BLOCK))
        return add_halves(low, high)

    @inlined
    def add_group(so_far, w, codes, scales, sums):
        dots = sum_half_lanes(
            two_blocks(w, codes),
            two_blocks(w + size, codes + BLOCK),
            two_blocks(w + 2 * size, codes + 2 * BLOCK),
            two_blocks(w + 3 * size, codes + 3 * BLOCK),
        )
        return add(so_far, dots, w, load_f32x8(scales), sums)

    @kernel
    def dot_row(w, codes, scales, sums, blocks, scratch):
        total = splat_f32x8(np.float32(0))
        groups = blocks // GROUP
        for g in range(groups):
            at = w + g * GROUP * size
            for line in range(0, GROUP * size, 64):
                prefetch(at + AHEAD + line)
            total = add_group(total, at, codes + g * GROUP_COLUMNS, scales + g * 32, sums + g * 32)
        rest = blocks - groups * GROUP
        if rest:  # the other blocks of the group count as zero
            zero_bytes(scratch, GROUP * size)
            copy_bytes(scratch, w + groups * GROUP * size, rest * size)
            codes, scales, sums = (
                codes + groups * GROUP_COLUMNS,
                scales + groups * 32,
                sums + groups * 32,
            )
            total = add_group(total, scratch, codes, scales, sums)
        return sum_lanes(total)

    @kernel
    def dot_rows(matrix, activations, first, last, n, out, out_stride, scratch):
        m, x = matrix_at(matrix), activations_at(activations)
        blocks = m.cols // BLOCK
        per_token = x.padded // BLOCK * 4
        for row in range(first, last):
            w = m.data + row * m.row_bytes
            for t in range(n):
                codes = x.codes + t * x.padded
                scales, sums = x.scales + t * per_token, x.sums + t * per_token
                value = dot_row(w, codes, scales, sums, blocks, scratch)
                store(out + t * out_stride + (row - first) * 4, value)

    return dot_rows


# tile


def _tile_of(size, load_codes, nothing, offset):
    """`tile` of blocks of `size` bytes; offset None: d and a minimum, the codes count from 0."""

    @kernel
    def tile_rows(matrix, activations, first, last, n, out, out_stride, scratch):
        m = matrix_at(matrix)
        blocks = m.cols // BLOCK
        scales = scratch + blocks * TILE_BLOCK
        minimums = scales + blocks * SCALES
        for start in range(first, last, TILE_ROWS):
            rows = min(TILE_ROWS, last - start)
            for r in range(rows):
                for block in range(blocks):
                    w = m.data + (start + r) * m.row_bytes + block * size
                    at = scratch + block * TILE_BLOCK + r * 4
                    codes = load_codes(w)
                    scatter_lanes(at, low_half(codes))
                    scatter_lanes(at + TILE_BLOCK // 2, high_half(codes))
                    store(scales + block * SCALES + r * 4, load_f16(w))
                    if offset is None:
                        store(minimums + block * SCALES + r * 4, load_f16(w + 2))
            to = out + (start - first) * 4
            multiply_tile(nothing(), offset, scratch, blocks, rows, activations, n, to, out_stride)

    return tile_rows


# unpack


@inlined
def _weights_with_minimum(w, codes):
    scale, minimum = splat_f32x16(load_f16(w)), splat_f32x16(load_f16(w + 2))
    return i8x16_to_f32(codes) * scale + minimum


@inlined
def _weights_of_q5_0(w, codes):
    whole = i8x16_to_f32(codes) - splat_f32x16(np.float32(OFFSET))
    return whole * splat_f32x16(load_f16(w))


def _unpack_of(size, load_codes, weights):
    """`unpack` of blocks of `size` bytes; weights(w, codes) makes sixteen."""

    @kernel
    def unpack_row(matrix, row, out):
        m = matrix_at(matrix)
        for block in range(m.cols // BLOCK):
            w = m.data + row * m.row_bytes + block * size
            codes = load_codes(w)
            store(out + block * BLOCK * 4, weights(w, low_half(codes)))
            store(out + block * BLOCK * 4 + 64, weights(w, high_half(codes)))

    return unpack_row


# pack


@inlined
def _whole(scaled, largest):
    """trunc(scaled), at most `largest`; 0 where that is no number: i8x16."""
    codes = f32x16_to_i32(between(scaled, np.float32(0), np.float32(256)))
    return i32x16_to_i8(smaller_int(codes, splat_i32x16(np.int32(largest))))


@inlined
def _inverse(d):
    return np.float32(0) if d == 0 else np.float32(1) / d


@inlined
def _store_fives(to, low, high):
    store(to, bytes_as_bits(join(low, high)))
    store(to + 4, join_nibbles(low_nibbles(low), low_nibbles(high)))


@inlined
def _codes_above(values, minimum, inverse, largest):
    above = (load_f32x16(values) - splat_f32x16(minimum)) * splat_f32x16(inverse)
    return _whole(above + splat_f32x16(np.float32(0.5)), largest)


@inlined
def _pack_above_minimum(x, to, largest):
    """Codes 0..largest of 32 float32, as two i8x16; d and m go to `to`."""
    low, high = load_f32x16(x), load_f32x16(x + 64)
    least, most = min_lanes(smaller(low, high)), max_lanes(larger(low, high))
    place = first_lane_equal_to(low, least)
    if place == 16:
        place += first_lane_equal_to(high, least)
    minimum = load_f32(x + min(place, BLOCK - 1) * 4)  # the first of equals, for the sign of zero
    d = (most - minimum) / np.float32(largest)
    store_f16(to, d)
    store_f16(to + 2, minimum)
    inverse = _inverse(d)
    return (
        _codes_above(x, minimum, inverse, largest),
        _codes_above(x + 64, minimum, inverse, largest),
    )


@inlined
def _codes_of_five(values, inverse):
    scaled = load_f32x16(values) * splat_f32x16(inverse) + splat_f32x16(np.float32(OFFSET + 0.5))
    return _whole(scaled, 31)


# Entries.

_dot_q4_1 = _dot_of(Q4_1_BYTES, _codes_of_q4_1, no_nibbles, _add_q4_1)
_dot_q5_0 = _dot_of(Q5_0_BYTES, _codes_of_q5_0, no_fives, _add_q5_0)
_dot_q5_1 = _dot_of(Q5_1_BYTES, _codes_of_q5_1, no_fives, _add_q5_1)
_tile_q4_1 = _tile_of(Q4_1_BYTES, _codes_of_q4_1, no_nibbles, None)
_tile_q5_0 = _tile_of(Q5_0_BYTES, _codes_of_q5_0, no_fives, OFFSET)
_tile_q5_1 = _tile_of(Q5_1_BYTES, _codes_of_q5_1, no_fives, None)
_unpack_q4_1 = _unpack_of(Q4_1_BYTES, _codes_of_q4_1, _weights_with_minimum)
_unpack_q5_0 = _unpack_of(Q5_0_BYTES, _codes_of_q5_0, _weights_of_q5_0)
_unpack_q5_1 = _unpack_of(Q5_1_BYTES, _codes_of_q5_1, _weights_with_minimum)


@entry
def dot_q4_1(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_q4_1(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def dot_q5_0(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_q5_0(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def dot_q5_1(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_q5_1(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile_q4_1(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_q4_1(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile_q5_0(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_q5_0(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile_q5_1(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_q5_1(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack_q4_1(matrix, row, out, scratch):
    _unpack_q4_1(matrix, row, out)


@entry
def unpack_q5_0(matrix, row, out, scratch):
    _unpack_q5_0(matrix, row, out)


@entry
def unpack_q5_1(matrix, row, out, scratch):
    _unpack_q5_1(matrix, row, out)


@entry
def pack_q4_1(values, n_blocks, out):
    for block in range(n_blocks):
        to = out + block * Q4_1_BYTES
        low, high = _pack_above_minimum(values + block * BLOCK * 4, to, 15)
        store(to + 4, join_nibbles(low, high))


@entry
def pack_q5_1(values, n_blocks, out):
    for block in range(n_blocks):
        to = out + block * Q5_1_BYTES
        low, high = _pack_above_minimum(values + block * BLOCK * 4, to, 31)
        _store_fives(to + 4, low, high)


@entry
def pack_q5_0(values, n_blocks, out):
    for block in range(n_blocks):
        at, to = values + block * BLOCK * 4, out + block * Q5_0_BYTES
        peak = largest_magnitude(load_f32x16(at), load_f32x16(at + 64))
        place = first_lane_with_magnitude(load_f32x16(at), peak)
        if place == 16:
            place += first_lane_with_magnitude(load_f32x16(at + 64), peak)
        d = load_f32(at + min(place, BLOCK - 1) * 4) / np.float32(-OFFSET)
        store_f16(to, d)
        inverse = _inverse(d)
        _store_fives(to + 2, _codes_of_five(at, inverse), _codes_of_five(at + 64, inverse))
