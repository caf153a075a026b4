"""Products on raw Q4_0 bytes (layout in q4_0.py)."""

import numpy as np

from .activations import largest_magnitude
from .jit import entry, inlined, kernel
from .kernels import BLOCK, TILE_ROWS
from .memory import copy_bytes, zero_bytes
from .records import activations_at, matrix_at
from .simd.half import load_8_scales_18, load_f16, load_f16_16_times, store_bf16x32, store_f16
from .simd.integer import add_products, no_nibbles, sum_half_lanes
from .simd.vector import (
    between,
    f32x16_to_i32,
    first_lane_with_magnitude,
    fma,
    high_nibbles,
    i8x16_to_f32,
    i32x8_to_f32,
    i32x16_to_i8,
    join,
    join_nibbles,
    lane_numbers,
    load_f32,
    load_f32x8,
    load_f32x16,
    load_i8x16,
    load_i8x32,
    load_i32x8,
    look_up_high,
    look_up_low,
    low_nibbles,
    prefetch,
    smaller_int,
    splat_f32x8,
    splat_f32x16,
    splat_i32x8,
    splat_i32x16,
    store,
    sum_lanes,
)
from .tile import SCALES, TILE_BLOCK, multiply_tile, scatter_lanes

BYTES = 18
GROUP = 8  # blocks taken at once
GROUP_BYTES = GROUP * BYTES
GROUP_COLUMNS = GROUP * BLOCK
OFFSET = 8  # w = d * (nibble - 8)
AHEAD = 4096  # bytes of prefetch: rows are short, so the hardware's own guess starts late


@inlined
def _dot_pair(w, pairs):
    """Blocks 0 and 4 from w on times their codes: one in each half of the lanes."""
    q = join(load_i8x16(w + 2), load_i8x16(w + 4 * BYTES + 2))
    low = add_products(no_nibbles(), low_nibbles(q), load_i8x32(pairs))
    return add_products(low, high_nibbles(q), load_i8x32(pairs + 32))


@inlined
def _add_group(so_far, w, pairs, scales, sums):
    """Eight blocks of a row, one a lane."""
    dots = sum_half_lanes(
        _dot_pair(w, pairs),
        _dot_pair(w + BYTES, pairs + 64),
        _dot_pair(w + 2 * BYTES, pairs + 128),
        _dot_pair(w + 3 * BYTES, pairs + 192),
    )
    exact = dots - load_i32x8(sums) * splat_i32x8(np.int32(OFFSET))
    return fma(i32x8_to_f32(exact), load_8_scales_18(w) * load_f32x8(scales), so_far)


@inlined
def _prefetch_group(w):
    prefetch(w)
    prefetch(w + 64)


@kernel
def _add_rest(so_far, w, groups, blocks, pairs, scales, sums, scratch):
    """The last blocks of a row, fewer than a group: the others count as zero."""
    rest = blocks - groups * GROUP
    if rest == 0:
        return so_far
    zero_bytes(scratch, GROUP_BYTES)
    copy_bytes(scratch, w + groups * GROUP_BYTES, rest * BYTES)
    pairs += groups * GROUP_COLUMNS
    return _add_group(so_far, scratch, pairs, scales + groups * 32, sums + groups * 32)


@kernel
def _dot_row(w, pairs, scales, sums, blocks, scratch, out):
    total = splat_f32x8(np.float32(0))
    groups = blocks // GROUP
    for g in range(groups):
        at = w + g * GROUP_BYTES
        _prefetch_group(at + AHEAD)
        total = _add_group(total, at, pairs + g * GROUP_COLUMNS, scales + g * 32, sums + g * 32)
    total = _add_rest(total, w, groups, blocks, pairs, scales, sums, scratch)
    store(out, sum_lanes(total))


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    m, x = matrix_at(matrix), activations_at(activations)
    blocks = m.cols // BLOCK
    per_token = x.padded // BLOCK * 4
    for row in range(first, last):
        w = m.data + row * m.row_bytes
        for t in range(n):
            pairs = x.pairs + t * x.padded
            scales, sums = x.scales + t * per_token, x.sums + t * per_token
            to = out + t * out_stride + (row - first) * 4
            _dot_row(w, pairs, scales, sums, blocks, scratch, to)


@entry
def tile(matrix, activations, first, last, n, out, out_stride, scratch):
    m = matrix_at(matrix)
    blocks = m.cols // BLOCK
    scales = scratch + blocks * TILE_BLOCK
    for start in range(first, last, TILE_ROWS):
        rows = min(TILE_ROWS, last - start)
        for r in range(rows):
            w = m.data + (start + r) * m.row_bytes
            for block in range(blocks):
                at = scratch + block * TILE_BLOCK + r * 4
                q = load_i8x16(w + block * BYTES + 2)
                scatter_lanes(at, low_nibbles(q))
                scatter_lanes(at + TILE_BLOCK // 2, high_nibbles(q))
                store(scales + block * SCALES + r * 4, load_f16(w + block * BYTES))
        to = out + (start - first) * 4
        multiply_tile(no_nibbles(), OFFSET, scratch, blocks, rows, activations, n, to, out_stride)


@entry
def unpack(matrix, row, out, scratch):
    m = matrix_at(matrix)
    for block in range(m.cols // BLOCK):
        w = m.data + row * m.row_bytes + block * BYTES
        d, eight = splat_f32x16(load_f16(w)), splat_f32x16(np.float32(OFFSET))
        q = load_i8x16(w + 2)
        store(out + block * BLOCK * 4, (i8x16_to_f32(low_nibbles(q)) - eight) * d)
        store(out + block * BLOCK * 4 + 64, (i8x16_to_f32(high_nibbles(q)) - eight) * d)


@entry
def widen(matrix, first, last, out, out_stride, scratch):
    m = matrix_at(matrix)
    weights = lane_numbers() - splat_f32x16(np.float32(OFFSET))  # of the codes 0..15
    for row in range(first, last):
        w, to = m.data + row * m.row_bytes, out + (row - first) * out_stride
        for _ in range(m.cols // BLOCK):
            prefetch(w + 2 * m.row_bytes)
            table, q = weights * load_f16_16_times(w), load_i8x16(w + 2)
            store_bf16x32(to, look_up_low(table, q), look_up_high(table, q))
            w += BYTES
            to += 2 * BLOCK


@inlined
def _codes(values, inverse):
    """trunc(value * inverse + 8.5), at most 15; 0 where that is no number."""
    scaled = load_f32x16(values) * splat_f32x16(inverse) + splat_f32x16(np.float32(8.5))
    scaled = between(scaled, np.float32(0), np.float32(256))
    return i32x16_to_i8(smaller_int(f32x16_to_i32(scaled), splat_i32x16(np.int32(15))))


@entry
def pack(values, n_blocks, out):
    for block in range(n_blocks):
        at = values + block * BLOCK * 4
        peak = largest_magnitude(load_f32x16(at), load_f32x16(at + 64))
        place = first_lane_with_magnitude(load_f32x16(at), peak)
        if place == 16:
            place += first_lane_with_magnitude(load_f32x16(at + 64), peak)
        d = load_f32(at + min(place, BLOCK - 1) * 4) / np.float32(-OFFSET)
        inverse = np.float32(0) if d == 0 else np.float32(1) / d
        store_f16(out + block * BYTES, d)
        store(out + block * BYTES + 2, join_nibbles(_codes(at, inverse), _codes(at + 64, inverse)))
