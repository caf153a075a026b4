"""Rows of weights, streamed past a few tokens.

Eight blocks of a row, a group, are unpacked at a time and meet all tokens of a batch while they are
in registers. One token keeps its running sums in a register too; more of them keep theirs in
scratch.

One token alone is bound by the memory, and one stream of addresses does not occupy it: a core has
only so many lines under way, and waits at every page. So its rows are read as two streams, from the
first half of the rows and from the second, a segment of each by turns; each row asks early for a
line in pages far ahead, and gets their translations with it. Each stream must do so from
instructions of its own: by these the processor tells streams apart.
"""

from typing import Any, NamedTuple

import numpy as np

from .jit import inlined, kernel
from .kernels import BLOCK
from .memory import copy_bytes, zero_bytes
from .records import activations_at, matrix_at
from .simd.integer import add_products, sum_half_lanes
from .simd.vector import (
    fma,
    i32x8_to_f32,
    load_f32x8,
    load_i8x32,
    load_i32x8,
    prefetch,
    splat_f32x8,
    splat_i32x8,
    store,
    sum_lanes,
    unknown,
)

GROUP = 8  # blocks: one a lane
TOKENS = 8  # whose sums are kept at once
SUMS = 32  # bytes of the running sums of a token
SEGMENT = 4  # groups
AHEAD = 2048  # bytes of prefetch: rows are short, so the hardware's own guess starts late
FAR, PAGE = 16384, 4096  # bytes: of early requests, one for each page of a usual row


class Tokens(NamedTuple):
    """Addresses in the activations of token 0, see kernels.py.

    What belongs to a group of a token lies at one offset from `scales`, `sums`, `totals` and
    `half_sums`, and at eight times that from `codes` and `pairs`.
    """

    codes: Any
    pairs: Any
    scales: Any
    sums: Any
    totals: Any
    half_sums: Any


@inlined
def _dot_pair(nothing, codes, x):
    first, second = codes
    return add_products(add_products(nothing, first, load_i8x32(x)), second, load_i8x32(x + BLOCK))


@inlined
def dot_pairs(nothing, pairs, x):
    """Eight blocks times the pairs at x: i32x8, one a lane.

    pairs: of blocks 0 and 4 their first halves in one vector and their second in another; of
    blocks 1 and 5; of 2 and 6; of 3 and 7. nothing: the empty running sum of such codes.
    """
    a, b, c, d = pairs
    return sum_half_lanes(
        _dot_pair(nothing, a, x),
        _dot_pair(nothing, b, x + 2 * BLOCK),
        _dot_pair(nothing, c, x + 4 * BLOCK),
        _dot_pair(nothing, d, x + 6 * BLOCK),
    )


@inlined
def add_with_minimum(so_far, dots, scale, minimum, x, at):
    """so_far + scale * dots + minimum * sum, of activations with a scale: in this order."""
    so_far = fma(i32x8_to_f32(dots), scale * load_f32x8(x.scales + at), so_far)
    return fma(minimum, load_f32x8(x.totals + at), so_far)


@inlined
def add_without_offset(so_far, dots, offset, scale, x, at):
    """so_far + scale * (dots - offset * sum), of activations with a scale."""
    exact = dots - load_i32x8(x.sums + at) * splat_i32x8(np.int32(offset))
    return fma(i32x8_to_f32(exact), scale * load_f32x8(x.scales + at), so_far)


def dot_of(size, load_group, add_group):
    """`dot` of groups of `size` bytes.

    load_group(w): the weights of a group, unpacked, as add_group wants them.
    add_group(so_far, weights, x, at): f32x8, the sums of a token and its product with a group; x
    are Tokens and `at` is the offset there.
    """

    @inlined
    def fetch_group(w, inside, spare):
        """The group at w; the last one of a row may be short and then stands in `spare`."""
        for line in range(0, size, 64):
            prefetch(w + AHEAD + line)
        return load_group(w if inside else spare)

    @inlined
    def begin_row(w, whole, rest, spare):
        """Ask for its pages' translations; set the short last group, if there is one, apart."""
        prefetch(w + FAR)
        prefetch(w + FAR + PAGE)
        if rest:
            copy_bytes(spare, w + whole, rest)

    # There is always a group and a token: loops that end behind them are compiled once, others
    # once more for the case that there is none.

    @kernel
    def dot_two(row, other, whole, last, spare, x, to, other_to):
        """The products of one token with two rows, a segment of each by turns."""
        total = other_total = splat_f32x8(np.float32(0))
        place = other_place = at = other_at = np.int64(0)
        other_spare = spare + size
        while place <= last:
            stop = min(place + SEGMENT * size, last + 1)
            while True:
                weights = fetch_group(row + place, place < whole, spare)
                total = add_group(total, weights, x, at)
                place, at = place + size, at + SUMS
                if place >= stop:
                    break
            row, other, spare, other_spare = other, row, other_spare, spare
            place, other_place, at, other_at = other_place, place, other_at, at
            total, other_total = other_total, total
        store(to, sum_lanes(total))
        store(other_to, sum_lanes(other_total))

    @kernel
    def dot_some(w, end, last, spare, x, at, per_token, sums, sums_end):
        """The products with several tokens, the first of them at `at`: the same to sums."""
        zero_bytes(sums, TOKENS * SUMS)
        while True:
            weights, to, place = fetch_group(w, w < end, spare), sums, at
            while True:
                store(to, add_group(load_f32x8(to), weights, x, place))
                to, place = to + SUMS, place + per_token
                if to >= sums_end:
                    break
            w, at = w + size, at + SUMS
            if w > last:
                return

    @kernel
    def dot_rows(matrix, activations, first, last, n, out, out_stride, scratch):
        m, a = matrix_at(matrix), activations_at(activations)
        x = Tokens(a.codes, a.pairs, a.scales, a.sums, a.totals, a.half_sums)
        per_token = a.padded // BLOCK * 4
        sums, spare = scratch, scratch + TOKENS * SUMS
        whole, rest = m.cols // (GROUP * BLOCK) * size, m.cols // BLOCK % GROUP * size // GROUP
        last_group = whole - size + (size if rest else 0)
        zero_bytes(spare, 2 * size)  # blocks behind the last one of a row count as zero
        rows, start = last - first, m.data + first * m.row_bytes
        half = (rows + 1) // 2
        for number in range(half if n == 1 else 0):
            second = min(number + half, rows - 1)
            w, other = start + number * m.row_bytes, start + second * m.row_bytes
            begin_row(w, whole, rest, spare)
            begin_row(other, whole, rest, spare + size)
            dot_two(w, other, whole, last_group, spare, x, out + number * 4, out + second * 4)
        for number in range(rows if n > 1 else 0):
            w, to = start + number * m.row_bytes, out + number * 4
            begin_row(w, whole, rest, spare)
            for token in range(0, n, TOKENS):
                some = unknown(TOKENS if n - token > TOKENS else n - token)  # not unrolled
                at = token * per_token
                end, last_w = w + whole, w + last_group
                dot_some(w, end, last_w, spare, x, at, per_token, sums, sums + some * SUMS)
                t = 0
                while True:
                    value = sum_lanes(load_f32x8(sums + t * SUMS))
                    store(to + (token + t) * out_stride, value)
                    t += 1
                    if t == some:
                        break

    return dot_rows
