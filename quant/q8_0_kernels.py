"""Products on raw Q8_0 bytes (layout in q8_0.py)."""

import numpy as np

from .activations import largest_magnitude
from .jit import entry, inlined, kernel
from .kernels import BLOCK, TILE_ROWS
from .memory import copy_bytes, zero_bytes
from .records import activations_at, matrix_at
from .simd.half import load_8_scales_34, load_f16, load_f16_16_times, store_bf16x32, store_f16
from .simd.integer import add_halves, dot4_signed, no_bytes, sum_half_lanes
from .simd.vector import (
    f32x16_to_i32,
    fma,
    i8x16_to_f32,
    i32x8_to_f32,
    i32x16_to_i8,
    load_f32x8,
    load_f32x16,
    load_i8x16,
    load_i8x32,
    magnitude,
    prefetch,
    round_down,
    splat_f32x8,
    splat_f32x16,
    store,
    sum_lanes,
    with_sign_of,
)
from .tile import SCALES, TILE_BLOCK, multiply_tile, scatter_lanes

BYTES = 34
GROUP = 8  # blocks taken at once
GROUP_BYTES = GROUP * BYTES
GROUP_COLUMNS = GROUP * BLOCK
AHEAD = 1024  # bytes of prefetch: rows are short, so the hardware's own guess starts late


@inlined
def _dot_block(w, x):
    return dot4_signed(load_i8x32(w + 2), load_i8x32(x))


@inlined
def _dot_four(w, x):
    """Four blocks: the sums of their low halves, then of their high halves."""
    return sum_half_lanes(
        _dot_block(w, x),
        _dot_block(w + BYTES, x + BLOCK),
        _dot_block(w + 2 * BYTES, x + 2 * BLOCK),
        _dot_block(w + 3 * BYTES, x + 3 * BLOCK),
    )


@inlined
def _add_group(so_far, w, codes, scales):
    """Eight blocks, one a lane."""
    dots = add_halves(_dot_four(w, codes), _dot_four(w + 4 * BYTES, codes + 4 * BLOCK))
    return fma(i32x8_to_f32(dots), load_8_scales_34(w) * load_f32x8(scales), so_far)


@kernel
def _dot_row(w, codes, scales, blocks, scratch):
    total = splat_f32x8(np.float32(0))
    groups = blocks // GROUP
    for g in range(groups):
        at = w + g * GROUP_BYTES
        for line in range(0, GROUP_BYTES, 64):
            prefetch(at + AHEAD + line)
        total = _add_group(total, at, codes + g * GROUP_COLUMNS, scales + g * 32)
    rest = blocks - groups * GROUP
    if rest:
        zero_bytes(scratch, GROUP_BYTES)
        copy_bytes(scratch, w + groups * GROUP_BYTES, rest * BYTES)
        total = _add_group(total, scratch, codes + groups * GROUP_COLUMNS, scales + groups * 32)
    return sum_lanes(total)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    m, x = matrix_at(matrix), activations_at(activations)
    blocks = m.cols // BLOCK
    per_token = x.padded // BLOCK * 4
    for row in range(first, last):
        w = m.data + row * m.row_bytes
        for t in range(n):
            value = _dot_row(w, x.codes + t * x.padded, x.scales + t * per_token, blocks, scratch)
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
                scatter_lanes(at, load_i8x16(w + block * BYTES + 2))
                scatter_lanes(at + TILE_BLOCK // 2, load_i8x16(w + block * BYTES + 18))
                store(scales + block * SCALES + r * 4, load_f16(w + block * BYTES))
        to = out + (start - first) * 4
        multiply_tile(no_bytes(), 0, scratch, blocks, rows, activations, n, to, out_stride)


@entry
def unpack(matrix, row, out, scratch):
    m = matrix_at(matrix)
    for block in range(m.cols // BLOCK):
        w = m.data + row * m.row_bytes + block * BYTES
        d = splat_f32x16(load_f16(w))
        store(out + block * BLOCK * 4, i8x16_to_f32(load_i8x16(w + 2)) * d)
        store(out + block * BLOCK * 4 + 64, i8x16_to_f32(load_i8x16(w + 18)) * d)


@entry
def widen(matrix, first, last, out, out_stride, scratch):
    m = matrix_at(matrix)
    for row in range(first, last):
        w, to = m.data + row * m.row_bytes, out + (row - first) * out_stride
        for _ in range(m.cols // BLOCK):
            prefetch(w + 2 * m.row_bytes)
            d = load_f16_16_times(w)
            low, high = i8x16_to_f32(load_i8x16(w + 2)), i8x16_to_f32(load_i8x16(w + 18))
            store_bf16x32(to, low * d, high * d)
            w += BYTES
            to += 2 * BLOCK


@inlined
def _codes(values, inverse):
    """value * inverse to the nearest integer, halves away from zero."""
    scaled = load_f32x16(values) * splat_f32x16(inverse)
    size = magnitude(scaled)
    whole = round_down(size)
    size = whole + round_down((size - whole) * splat_f32x16(np.float32(2)))
    return i32x16_to_i8(f32x16_to_i32(with_sign_of(size, scaled)))


@entry
def pack(values, n_blocks, out):
    for block in range(n_blocks):
        at, to = values + block * BLOCK * 4, out + block * BYTES
        d = largest_magnitude(load_f32x16(at), load_f32x16(at + 64)) / np.float32(127)
        inverse = np.float32(0) if d == 0 else np.float32(1) / d
        store_f16(to, d)
        store(to + 2, _codes(at, inverse))
        store(to + 18, _codes(at + 64, inverse))
