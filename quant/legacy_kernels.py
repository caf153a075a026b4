"""Products on raw Q4_1, Q5_0 and Q5_1 bytes (layouts in q4_1.py, q5_0.py, q5_1.py).

The three differ in their codes, 4 bits or 5, and in what code 0 stands for: a minimum that the
block states, or -16 times its scale.
"""

import numpy as np

from .activations import largest_magnitude
from .dot import GROUP, add_with_minimum, add_without_offset, dot_of, dot_pairs
from .jit import entry, inlined, kernel
from .kernels import BLOCK
from .records import matrix_at
from .simd.bfloat import look_up_32, narrow_to_bf16
from .simd.half import (
    load_8_scales_20,
    load_8_scales_22,
    load_8_scales_24,
    load_f16,
    load_f16_16_times,
    store_f16,
)
from .simd.integer import no_fives, no_nibbles
from .simd.rows import fifth_bits_of_rows, load_f16_of_rows, load_sixteen, store_pieces
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
    i32x16_to_i8,
    join,
    join_nibbles,
    lane_numbers,
    larger,
    load_f32,
    load_f32x16,
    load_i8x16,
    load_i32,
    low_half,
    low_nibbles,
    max_lanes,
    min_lanes,
    prefetch,
    smaller,
    smaller_int,
    splat_f32x16,
    splat_i32x16,
    store,
)
from .tile import SCALES, TILE_BLOCK, tile_of
from .widening import widen_of

Q4_1_BYTES, Q5_0_BYTES, Q5_1_BYTES = 20, 22, 24
OFFSET = 16  # of Q5_0: w = d * (code - 16)


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
def _scales_of_q4_1(w):
    return load_8_scales_20(w), load_8_scales_20(w + 2)


@inlined
def _scales_of_q5_1(w):
    return load_8_scales_24(w), load_8_scales_24(w + 2)


@inlined
def _add_pair(so_far, dots, scales, x, at):
    scale, minimum = scales
    return add_with_minimum(so_far, dots, scale, minimum, x, at)


@inlined
def _add_q5_0(so_far, dots, scale, x, at):
    return add_without_offset(so_far, dots, OFFSET, scale, x, at)


@inlined
def _nibbles_of_pair(near, far):
    q = join(load_i8x16(near), load_i8x16(far))
    return low_nibbles(q), high_nibbles(q)


@inlined
def _fives_of_pair(near, far):
    first, second = _nibbles_of_pair(near + 4, far + 4)
    a, b = load_i32(near), load_i32(far)
    low, high = a & 0xFFFF | b << 16, a >> 16 & 0xFFFF | b & -0x10000
    return first + bits_as_bytes(np.int32(low)), second + bits_as_bytes(np.int32(high))


def _dot_of(size, load_pair, codes_at, nothing, load_scales, add):
    """`dot` of blocks of `size` bytes.

    load_pair(near, far): the codes of two blocks as dot_pairs wants them; they begin `codes_at`
    bytes behind the block. load_scales(w): of eight blocks, as add(so_far, dots, scales, x, at)
    takes them.
    """

    @inlined
    def load_two(w):
        return load_pair(w + codes_at, w + 4 * size + codes_at)

    @inlined
    def load_group(w):
        pairs = load_two(w), load_two(w + size), load_two(w + 2 * size), load_two(w + 3 * size)
        return pairs, load_scales(w)

    @inlined
    def add_group(so_far, weights, x, at):
        pairs, scales = weights
        return add(so_far, dot_pairs(nothing(), pairs, x.pairs + 8 * at), scales, x, at)

    return dot_of(GROUP * size, load_group, add_group)


# tile


@inlined
def _halves_of_nibbles(rows, at):
    q = load_sixteen(rows, at)
    return low_nibbles(q), high_nibbles(q)


@inlined
def _halves_of_fives(rows, at):
    low, high = _halves_of_nibbles(rows, at + 4)
    return low + fifth_bits_of_rows(rows, at, 0), high + fifth_bits_of_rows(rows, at, 16)


def _tile_of(size, load_halves, codes_at, nothing, offset):
    """`tile` of blocks of `size` bytes; offset None: d and a minimum, the codes count from 0.

    load_halves(rows, at): the codes of a block, its first half and its second; they begin
    `codes_at` bytes behind the block.
    """

    @kernel
    def unpack_rows(rows, blocks, codes, scales, minimums):
        for block in range(blocks):
            at, to = block * size, codes + block * TILE_BLOCK
            first, second = load_halves(rows, at + codes_at)
            store_pieces(to, first)
            store_pieces(to + TILE_BLOCK // 2, second)
            store(scales + block * SCALES, load_f16_of_rows(rows, at))
            if offset is None:
                store(minimums + block * SCALES, load_f16_of_rows(rows, at + 2))

    return tile_of(unpack_rows, nothing, offset)


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


# widen


@inlined
def _block_of_q4_1(row, block):
    w = row + block * Q4_1_BYTES
    return w + 4, fma(lane_numbers(), load_f16_16_times(w), load_f16_16_times(w + 2))


def _widen_fives_of(size, load_codes, weights_from):
    """`widen` of blocks of `size` bytes; weights_from(w, first): those of sixteen codes."""

    @kernel
    def widen_rows(matrix, first, last, out, out_stride):
        m = matrix_at(matrix)
        for row in range(first, last):
            w, to = m.data + row * m.row_bytes, out + (row - first) * out_stride
            for _ in range(m.cols // BLOCK):
                prefetch(w + 2 * m.row_bytes)
                weights = narrow_to_bf16(weights_from(w, 0), weights_from(w, 16))
                store(to, look_up_32(weights, load_codes(w)))
                w += size
                to += 2 * BLOCK

    return widen_rows


@inlined
def _codes_from(first):
    return lane_numbers() + splat_f32x16(np.float32(first))


@inlined
def _weights_of_q5_0_from(w, first):
    return _codes_from(first - OFFSET) * load_f16_16_times(w)


@inlined
def _weights_of_q5_1_from(w, first):
    return fma(_codes_from(first), load_f16_16_times(w), load_f16_16_times(w + 2))


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

_dot_q4_1 = _dot_of(Q4_1_BYTES, _nibbles_of_pair, 4, no_nibbles, _scales_of_q4_1, _add_pair)
_dot_q5_0 = _dot_of(Q5_0_BYTES, _fives_of_pair, 2, no_fives, load_8_scales_22, _add_q5_0)
_dot_q5_1 = _dot_of(Q5_1_BYTES, _fives_of_pair, 4, no_fives, _scales_of_q5_1, _add_pair)
_tile_q4_1 = _tile_of(Q4_1_BYTES, _halves_of_nibbles, 4, no_nibbles, None)
_tile_q5_0 = _tile_of(Q5_0_BYTES, _halves_of_fives, 2, no_fives, OFFSET)
_tile_q5_1 = _tile_of(Q5_1_BYTES, _halves_of_fives, 4, no_fives, None)
_unpack_q4_1 = _unpack_of(Q4_1_BYTES, _codes_of_q4_1, _weights_with_minimum)
_unpack_q5_0 = _unpack_of(Q5_0_BYTES, _codes_of_q5_0, _weights_of_q5_0)
_unpack_q5_1 = _unpack_of(Q5_1_BYTES, _codes_of_q5_1, _weights_with_minimum)
_widen_q4_1 = widen_of(_block_of_q4_1)
_widen_q5_0 = _widen_fives_of(Q5_0_BYTES, _codes_of_q5_0, _weights_of_q5_0_from)
_widen_q5_1 = _widen_fives_of(Q5_1_BYTES, _codes_of_q5_1, _weights_of_q5_1_from)


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
def widen_q4_1(matrix, first, last, out, out_stride, scratch):
    _widen_q4_1(matrix, first, last, out, out_stride)


@entry
def widen_q5_0(matrix, first, last, out, out_stride, scratch):
    _widen_q5_0(matrix, first, last, out, out_stride)


@entry
def widen_q5_1(matrix, first, last, out, out_stride, scratch):
    _widen_q5_1(matrix, first, last, out, out_stride)


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
