"""Products on raw Q4_0 bytes (layout in q4_0.py)."""

import numpy as np

from .activations import largest_magnitude
from .jit import entry, kernel
from .kernels import BLOCK, TILE_ROWS, ProductKernels
from .memory import copy_bytes, zero_bytes
from .records import activations_at, matrix_at
from .simd.half import load_8_scales_18, load_f16, store_f16
from .simd.integer import dot4_nibbles, no_nibbles, sum_half_lanes
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
    load_f32,
    load_f32x8,
    load_f32x16,
    load_i8x16,
    load_i32x8,
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
AHEAD = 1024  # bytes of prefetch: rows are short, so the hardware's own guess starts late


@kernel
def _dot_pair(w, x):
    """Blocks j and j + 4 times 2 * 32 codes: low half of the lanes one, high half the other."""
    q = join(load_i8x16(w + 2), load_i8x16(w + 4 * BYTES + 2))
    low = join(load_i8x16(x), load_i8x16(x + 4 * BLOCK))
    high = join(load_i8x16(x + 16), load_i8x16(x + 4 * BLOCK + 16))
    return dot4_nibbles(low_nibbles(q), low, high_nibbles(q), high)


@kernel
def _add_group(so_far, w, codes, scales, sums):
    """Eight blocks, one a lane."""
    dots = sum_half_lanes(
        _dot_pair(w, codes),
        _dot_pair(w + BYTES, codes + BLOCK),
        _dot_pair(w + 2 * BYTES, codes + 2 * BLOCK),
        _dot_pair(w + 3 * BYTES, codes + 3 * BLOCK),
    )
    exact = dots - load_i32x8(sums) * splat_i32x8(np.int32(OFFSET))
    return fma(i32x8_to_f32(exact), load_8_scales_18(w) * load_f32x8(scales), so_far)


@kernel
def _dot_row(w, codes, scales, sums, blocks, scratch):
    total = splat_f32x8(np.float32(0))
    groups = blocks // GROUP
    for g in range(groups):
        at = w + g * GROUP_BYTES
        prefetch(at + AHEAD)
        prefetch(at + AHEAD + 64)
        total = _add_group(total, at, codes + g * GROUP_COLUMNS, scales + g * 32, sums + g * 32)
    rest = blocks - groups * GROUP
    if rest:
        zero_bytes(scratch, GROUP_BYTES)
        copy_bytes(scratch, w + groups * GROUP_BYTES, rest * BYTES)
        codes += groups * GROUP_COLUMNS
        total = _add_group(total, scratch, codes, scales + groups * 32, sums + groups * 32)
    return sum_lanes(total)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    m, x = matrix_at(matrix), activations_at(activations)
    blocks = m.cols // BLOCK
    per_token = x.padded // BLOCK * 4
    for row in range(first, last):
        w = m.data + row * m.row_bytes
        for t in range(n):
            value = _dot_row(
                w,
                x.codes + t * x.padded,
                x.scales + t * per_token,
                x.sums + t * per_token,
                blocks,
                scratch,
            )
            store(out + t * out_stride + (row - first) * 4, value)


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


@kernel
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


PRODUCTS = {"Q4_0": ProductKernels(dot, tile, unpack, pack, quantized=True)}
