"""Sixteen quantized rows, unpacked once and multiplied with every token of a batch.

A tile holds, for each block of 32 columns, the bytes of 16 rows in the order in which they are
used:

    codes    (blocks, 8, 16, 4) int8      four neighbouring columns of a row are one lane
    scales   (blocks, 16) float32
    minimums (blocks, 16) float32         where the format has them: what code 0 stands for

so that one register holds four columns of eight rows, meets four columns of one token, spread to
all lanes, and nothing is summed across lanes.
"""

import numpy as np

from .jit import inlined, kernel
from .kernels import BLOCK, TILE_ROWS, TILE_TOKENS
from .records import activations_at, matrix_at
from .simd.cpu import current_tier
from .simd.integer import add_products, parts_of_eight, total_of
from .simd.vector import (
    fma,
    i32x8_to_f32,
    load_f32,
    load_f32x8,
    load_i8x32,
    load_i32,
    prefetch_later,
    splat_f32x8,
    splat_four_bytes,
    splat_i32x8,
    store,
    unknown,
)
from .wide_tile import sum_wide_class

WIDE = current_tier().wide
LANE = 4  # columns of a row that lie together
PIECE = TILE_ROWS * LANE  # bytes of four columns of all rows
TILE_BLOCK = BLOCK * TILE_ROWS  # bytes of a block of all rows
HALF = PIECE // 2
EIGHT = 8  # rows unpacked at once
SCALES = TILE_ROWS * 4
GROUP = 8  # blocks are summed by their number modulo this
CLASS_BYTES = TILE_TOKENS * TILE_ROWS * 4


@inlined
def _spread(codes):
    """Four columns of a token, for all lanes."""
    return splat_four_bytes(load_i32(codes))


@inlined
def _corrections(offset, x):
    """Where it stands what the offsets of blocks, or their minimums, multiply."""
    return x.totals if offset is None else x.sums


@inlined
def _load_correction(offset, at):
    if offset is None:
        return load_f32(at)
    return load_i32(at)


@inlined
def _add_block(sums, offset, w_scale, minimums, x_scale, correction, so_far):
    """A block of eight rows and of a token, lane by lane, in the order that kernels.py states."""
    if offset is None:
        so_far = fma(i32x8_to_f32(sums), w_scale * splat_f32x8(x_scale), so_far)
        return fma(load_f32x8(minimums), splat_f32x8(correction), so_far)
    exact = sums - splat_i32x8(np.int32(offset * correction))
    return fma(i32x8_to_f32(exact), w_scale * splat_f32x8(x_scale), so_far)


@kernel
def _sum_class(nothing, offset, codes, scales, first, blocks, x, c0, c1, c2, c3, out):
    """Blocks first, first + 8, ... of 16 rows times four tokens, to out (4, 16) float32.

    x: the activations; c0..c3: token numbers.
    """
    low0 = low1 = low2 = low3 = splat_f32x8(np.float32(0))
    high0 = high1 = high2 = high3 = splat_f32x8(np.float32(0))
    per_token = x.padded // BLOCK
    minimums = scales + blocks * SCALES
    for block in range(first, blocks, GROUP):
        p0 = p1 = p2 = p3 = splat_i32x8(np.int32(0))
        q0 = q1 = q2 = q3 = splat_i32x8(np.int32(0))
        at = codes + block * TILE_BLOCK
        column = x.codes + block * BLOCK
        x0 = column + c0 * x.padded
        x1 = column + c1 * x.padded
        x2 = column + c2 * x.padded
        x3 = column + c3 * x.padded
        for _ in range(parts_of_eight(nothing)):
            a0 = a1 = a2 = a3 = nothing
            b0 = b1 = b2 = b3 = nothing
            # unrolled, the sums of all pieces would not fit registers
            end = unknown(at + TILE_BLOCK // parts_of_eight(nothing))
            while at < end:
                wa, wb = load_i8x32(at), load_i8x32(at + HALF)
                s0, s1 = _spread(x0), _spread(x1)
                a0, b0 = add_products(a0, wa, s0), add_products(b0, wb, s0)
                a1, b1 = add_products(a1, wa, s1), add_products(b1, wb, s1)
                s2, s3 = _spread(x2), _spread(x3)
                a2, b2 = add_products(a2, wa, s2), add_products(b2, wb, s2)
                a3, b3 = add_products(a3, wa, s3), add_products(b3, wb, s3)
                at += PIECE
                x0, x1, x2, x3 = x0 + LANE, x1 + LANE, x2 + LANE, x3 + LANE
            p0, q0 = p0 + total_of(a0), q0 + total_of(b0)
            p1, q1 = p1 + total_of(a1), q1 + total_of(b1)
            p2, q2 = p2 + total_of(a2), q2 + total_of(b2)
            p3, q3 = p3 + total_of(a3), q3 + total_of(b3)
        da, db = load_f32x8(scales + block * SCALES), load_f32x8(scales + block * SCALES + 32)
        ma, mb = minimums + block * SCALES, minimums + block * SCALES + 32
        d = x.scales + block * 4
        d0, d1 = load_f32(d + c0 * per_token * 4), load_f32(d + c1 * per_token * 4)
        d2, d3 = load_f32(d + c2 * per_token * 4), load_f32(d + c3 * per_token * 4)
        t = _corrections(offset, x) + block * 4
        t0 = _load_correction(offset, t + c0 * per_token * 4)
        t1 = _load_correction(offset, t + c1 * per_token * 4)
        t2 = _load_correction(offset, t + c2 * per_token * 4)
        t3 = _load_correction(offset, t + c3 * per_token * 4)
        low0 = _add_block(p0, offset, da, ma, d0, t0, low0)
        high0 = _add_block(q0, offset, db, mb, d0, t0, high0)
        low1 = _add_block(p1, offset, da, ma, d1, t1, low1)
        high1 = _add_block(q1, offset, db, mb, d1, t1, high1)
        low2 = _add_block(p2, offset, da, ma, d2, t2, low2)
        high2 = _add_block(q2, offset, db, mb, d2, t2, high2)
        low3 = _add_block(p3, offset, da, ma, d3, t3, low3)
        high3 = _add_block(q3, offset, db, mb, d3, t3, high3)
    store(out, low0)
    store(out + 32, high0)
    store(out + 64, low1)
    store(out + 96, high1)
    store(out + 128, low2)
    store(out + 160, high2)
    store(out + 192, low3)
    store(out + 224, high3)


@kernel
def _fold_classes(classes, i):
    """Eight partial sums of (token, eight rows) number i, added by halves as sum_lanes does."""
    at = classes + i * 32
    c0, c4 = load_f32x8(at), load_f32x8(at + 4 * CLASS_BYTES)
    c1, c5 = load_f32x8(at + CLASS_BYTES), load_f32x8(at + 5 * CLASS_BYTES)
    c2, c6 = load_f32x8(at + 2 * CLASS_BYTES), load_f32x8(at + 6 * CLASS_BYTES)
    c3, c7 = load_f32x8(at + 3 * CLASS_BYTES), load_f32x8(at + 7 * CLASS_BYTES)
    return ((c0 + c4) + (c2 + c6)) + ((c1 + c5) + (c3 + c7))


@kernel
def store_sums(classes, rows, n, out, out_stride):
    """out[t, r] = the sum of the eight partial sums of the `rows` rows of a tile and n tokens."""
    for t in range(n):
        low, high = _fold_classes(classes, 2 * t), _fold_classes(classes, 2 * t + 1)
        to = out + t * out_stride
        if rows == TILE_ROWS:
            store(to, low)
            store(to + 32, high)
        else:
            store(classes, low)  # class 0 of token 0 has been folded
            store(classes + 32, high)
            for r in range(rows):
                store(to + 4 * r, load_f32(classes + 4 * r))


@kernel
def store_eight(low, high, rows, n, out, out_stride):
    """The same of the next eight tokens, four in low and four in high; n: how many there are."""
    store_sums(low, rows, min(TILE_TOKENS, n), out, out_stride)
    store_sums(
        high, rows, min(TILE_TOKENS, n - TILE_TOKENS), out + TILE_TOKENS * out_stride, out_stride
    )


@inlined
def prefetch_lines(address, n):
    """Ask for n bytes."""
    for line in range(0, n, 64):
        prefetch_later(address + line)


@inlined
def share_of(size, parts, n):
    """Bytes to ask for with each of `parts` pieces of work for each TILE_TOKENS of n tokens."""
    return size // (parts * (-(-n // TILE_TOKENS))) + 63 & -64


@kernel
def multiply_tile(
    nothing, offset, tile, blocks, rows, activations, n, out, out_stride, ahead, size
):
    """out[t, r] = sum of weight * activation, for the `rows` rows of a tile.

    A weight is scale * (code - offset); or scale * code + minimum, and offset is None.
    nothing: the empty running sum of the tile's codes. The bytes behind the scales, or the
    minimums, are used too. Meanwhile the `size` bytes at `ahead` are asked for: the rows to come.
    """
    x = activations_at(activations)
    scales = tile + blocks * TILE_BLOCK
    classes = scales + blocks * SCALES * (2 if offset is None else 1)
    if WIDE:
        more = classes + GROUP * CLASS_BYTES
        share = share_of(size, GROUP, (n + 1) // 2)
        for first in range(0, n, 2 * TILE_TOKENS):
            for number in range(unknown(GROUP)):
                prefetch_lines(ahead, share)
                ahead += share
                to, beyond = classes + number * CLASS_BYTES, more + number * CLASS_BYTES
                sum_wide_class(
                    nothing, offset, tile, scales, number, blocks, GROUP, x, first, n - 1, to,
                    beyond,
                )  # fmt: skip
            store_eight(classes, more, rows, n - first, out + first * out_stride, out_stride)
        return
    share = share_of(size, GROUP, n)
    for first in range(0, n, TILE_TOKENS):
        last = n - 1  # a short group repeats its last token and keeps what is its own
        c1, c2, c3 = min(first + 1, last), min(first + 2, last), min(first + 3, last)
        for number in range(unknown(GROUP)):  # unrolled, it is eight times the code
            prefetch_lines(ahead, share)
            ahead += share
            to = classes + number * CLASS_BYTES
            _sum_class(nothing, offset, tile, scales, number, blocks, x, first, c1, c2, c3, to)
        store_sums(classes, rows, min(TILE_TOKENS, n - first), out + first * out_stride, out_stride)


@inlined
def rows_from(m, first, last):
    """The addresses of eight rows; the last one stands for those behind it."""
    data, size, end = m.data, m.row_bytes, last - 1
    return (
        data + min(first, end) * size,
        data + min(first + 1, end) * size,
        data + min(first + 2, end) * size,
        data + min(first + 3, end) * size,
        data + min(first + 4, end) * size,
        data + min(first + 5, end) * size,
        data + min(first + 6, end) * size,
        data + min(first + 7, end) * size,
    )


def tile_of(unpack_rows, nothing, offset):
    """`tile` of weights as multiply_tile wants them.

    unpack_rows(rows, blocks, codes, scales, minimums): eight rows (see simd/rows.py) to a half of a
    tile. nothing(): the empty running sum of its codes.
    """

    @kernel
    def tile_rows(matrix, activations, first, last, n, out, out_stride, scratch):
        m = matrix_at(matrix)
        blocks = m.cols // BLOCK
        scales = scratch + blocks * TILE_BLOCK
        minimums = scales + blocks * SCALES
        for start in range(first, last, EIGHT):
            number = (start - first) % TILE_ROWS
            at, n_rows = number * LANE, min(number + EIGHT, last - start + number)
            unpack_rows(rows_from(m, start, last), blocks, scratch + at, scales + at, minimums + at)
            if number or start + EIGHT >= last:
                to = out + (start - number - first) * 4
                next_rows = m.data + (start + EIGHT) * m.row_bytes
                n_bytes = min(TILE_ROWS, last - start - EIGHT) * m.row_bytes
                multiply_tile(
                    nothing(), offset, scratch, blocks, n_rows, activations, n, to, out_stride,
                    next_rows, n_bytes,
                )  # fmt: skip

    return tile_rows
