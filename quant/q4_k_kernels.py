"""Products on raw Q4_K bytes (layout in q4_k.py), and what those on Q5_K share with them.

A super-block is a group of eight blocks, one a lane. d * s and dmin * m are exact in float32: 11
bits times 6.
"""

import numpy as np

from .dot import add_with_minimum, dot_of, dot_pairs
from .jit import entry, inlined, kernel
from .kernels import BLOCK
from .records import matrix_at
from .simd.bfloat import look_up_32, narrow_to_bf16
from .simd.half import load_two_f16
from .simd.integer import no_nibbles
from .simd.lookup import six_bit_fields
from .simd.rows import bits_of_lanes, f16_of_lanes, load_sixteen, registers_of, store_pieces
from .simd.vector import (
    fma,
    high_half,
    high_nibbles,
    i8x16_to_f32,
    i32x8_to_f32,
    join,
    lane_numbers,
    load_f32,
    load_i8x16,
    load_i8x32,
    low_half,
    low_nibbles,
    prefetch,
    splat_f32x8,
    splat_f32x16,
    splat_i8x32,
    store,
    take_bits,
)
from .tile import SCALES, TILE_BLOCK, tile_of

BYTES = 144
COLUMNS = 256  # of a super-block
BLOCKS = COLUMNS // BLOCK
QS = 16  # where the codes are in it


@inlined
def scales_and_minimums(w):
    """d * s and -dmin * m of the blocks of a super-block: f32x8 each."""
    both = i8x16_to_f32(six_bit_fields(load_i8x16(w)))
    scale, minimum = load_two_f16(w)
    minus = minimum * splat_f32x8(np.float32(-1))
    return scale * low_half(both), minus * high_half(both)


def dot_of_pairs(load_pairs, size, nothing):
    """`dot` of super-blocks of `size` bytes, given their load_pairs(w) as dot_pairs wants
    them; and their empty running sum.
    """

    @inlined
    def load_group(w):
        return load_pairs(w), scales_and_minimums(w)

    @inlined
    def add_group(so_far, weights, x, at):
        pairs, (scale, minimum) = weights
        dots = dot_pairs(nothing(), pairs, x.pairs + 8 * at)
        return add_with_minimum(so_far, dots, scale, minimum, x, at)

    return dot_of(size, load_group, add_group)


@inlined
def _eight_scales(scale, of_four, to):
    """scale * the four bytes of each row, to four blocks."""
    for i in range(4):
        sub_scales = i32x8_to_f32(bits_of_lanes(of_four, 8 * i, 0xFF))
        store(to + i * SCALES, scale * sub_scales)


@inlined
def _unpack_scales(rows, at, scales, minimums):
    """d * s and -dmin * m of the blocks of a super-block of eight rows."""
    both, s, m, last = registers_of(load_sixteen(rows, at))
    d, minus = f16_of_lanes(both, 0), f16_of_lanes(both, 16) * splat_f32x8(np.float32(-1))
    _eight_scales(d, take_bits(s, 0, 63, 0), scales)
    _eight_scales(d, low_nibbles(last) + take_bits(s, 6, 3, 4), scales + 4 * SCALES)
    _eight_scales(minus, take_bits(m, 0, 63, 0), minimums)
    _eight_scales(minus, high_nibbles(last) + take_bits(m, 6, 3, 4), minimums + 4 * SCALES)


def tile_of_pairs(load_top, load_codes, size, nothing):
    """`tile` of super-blocks of `size` bytes, and the empty running sum of their codes.

    load_codes(place, at, top, pair, side): sixteen codes of blocks 2 * pair and 2 * pair + 1, the
    first or the second, of the super-block at an offset from a place (see simd/rows.py); top:
    load_top(place, at, side), which the pairs share.
    """

    @kernel
    def unpack_rows(rows, blocks, codes, scales, minimums):
        for block in range(0, blocks, BLOCKS):
            at = block // BLOCKS * size
            _unpack_scales(rows, at, scales + block * SCALES, minimums + block * SCALES)
            for side in range(2):
                top = load_top(rows, at, side)
                for pair in range(BLOCKS // 2):
                    even, odd = load_codes(rows, at, top, pair, side)
                    to = codes + (block + 2 * pair) * TILE_BLOCK + side * (TILE_BLOCK // 2)
                    store_pieces(to, even)
                    store_pieces(to + TILE_BLOCK, odd)

    return tile_of(unpack_rows, nothing, None)


@inlined
def _store_weights(to, codes, at):
    scale, minimum = splat_f32x16(load_f32(at)), splat_f32x16(load_f32(at + 32))
    store(to, i8x16_to_f32(codes) * scale + minimum)


def unpack_of(load_top, load_codes, size):
    """`unpack` of super-blocks of `size` bytes; load_top and load_codes as in
    tile_of_pairs."""

    @kernel
    def unpack_row(matrix, row, out, scratch):
        m = matrix_at(matrix)
        for group in range(m.cols // COLUMNS):
            w = m.data + row * m.row_bytes + group * size
            scale, minimum = scales_and_minimums(w)
            store(scratch, scale)
            store(scratch + 32, minimum)
            for side in range(2):
                top = load_top(w, 0, side)
                for pair in range(BLOCKS // 2):
                    to = out + (group * COLUMNS + pair * 64 + side * 16) * 4
                    even, odd = load_codes(w, 0, top, pair, side)
                    _store_weights(to, even, scratch + pair * 8)
                    _store_weights(to + BLOCK * 4, odd, scratch + pair * 8 + 4)

    return unpack_row


@inlined
def weights_of_codes(first, at):
    """Those of sixteen codes from `first` on, in a block; `at`: its scale, 32 bytes from its
    minimum: f32x16.
    """
    codes = lane_numbers() + splat_f32x16(np.float32(first))
    return fma(codes, splat_f32x16(load_f32(at)), splat_f32x16(load_f32(at + 32)))


def widen_of(widen_pair, size):
    """`widen` of super-blocks of `size` bytes.

    widen_pair(w, pair, at): blocks 2 * pair and 2 * pair + 1 of the super-block at w, i16x32 each;
    `at`: the scale of the first, those of others behind it, 32 bytes from their minimums.
    """

    @kernel
    def widen_rows(matrix, first, last, out, out_stride, scratch):
        m = matrix_at(matrix)
        for row in range(first, last):
            w, to = m.data + row * m.row_bytes, out + (row - first) * out_stride
            for _ in range(m.cols // COLUMNS):
                for line in range(0, size, 64):
                    prefetch(w + 2 * m.row_bytes + line)
                scale, minimum = scales_and_minimums(w)
                store(scratch, scale)
                store(scratch + 32, minimum)
                for pair in range(BLOCKS // 2):
                    even, odd = widen_pair(w, pair, scratch + pair * 8)
                    store(to, even)
                    store(to + 2 * BLOCK, odd)
                    to += 4 * BLOCK
                w += size

    return widen_rows


@inlined
def _load_top(place, at, side):
    return 0


@inlined
def _load_codes(place, at, top, pair, side):
    q = load_sixteen(place, at + QS + pair * 32 + side * 16)
    return low_nibbles(q), high_nibbles(q)


@inlined
def load_halves(w):
    """Nibbles of blocks 0 and 4, and above them those of 1 and 5: first halves, second halves; then
    of 2 and 6, and above them 3 and 7. w: where the codes of a super-block are.
    """
    return (
        join(load_i8x16(w), load_i8x16(w + 64)),
        join(load_i8x16(w + 16), load_i8x16(w + 80)),
        join(load_i8x16(w + 32), load_i8x16(w + 96)),
        join(load_i8x16(w + 48), load_i8x16(w + 112)),
    )


@inlined
def _load_pairs(w):
    a, b, c, d = load_halves(w + QS)
    return (
        (low_nibbles(a), low_nibbles(b)),
        (high_nibbles(a), high_nibbles(b)),
        (low_nibbles(c), low_nibbles(d)),
        (high_nibbles(c), high_nibbles(d)),
    )


@inlined
def _widen_pair(w, pair, at):
    """Codes number the weights of the even block, above them those of the odd one."""
    q = load_i8x32(w + QS + pair * 32)
    weights = narrow_to_bf16(weights_of_codes(0, at), weights_of_codes(0, at + 4))
    odd = high_nibbles(q) + splat_i8x32(np.int8(16))
    return look_up_32(weights, low_nibbles(q)), look_up_32(weights, odd)


_dot_rows = dot_of_pairs(_load_pairs, BYTES, no_nibbles)
_tile_rows = tile_of_pairs(_load_top, _load_codes, BYTES, no_nibbles)
_unpack_row = unpack_of(_load_top, _load_codes, BYTES)
_widen_rows = widen_of(_widen_pair, BYTES)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_rows(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_rows(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack(matrix, row, out, scratch):
    _unpack_row(matrix, row, out, scratch)


@entry
def widen(matrix, first, last, out, out_stride, scratch):
    _widen_rows(matrix, first, last, out, out_stride, scratch)
