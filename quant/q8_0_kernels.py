"""Products on raw Q8_0 bytes (layout in q8_0.py)."""

import numpy as np

from .activations import largest_magnitude
from .dot import GROUP, dot_of, dot_pairs
from .jit import entry, inlined, kernel
from .kernels import BLOCK
from .records import matrix_at
from .simd.bfloat import narrow_to_bf16
from .simd.half import load_8_scales_34, load_f16, load_f16_16_times, store_f16
from .simd.integer import no_bytes
from .simd.rows import load_f16_of_rows, load_sixteen, store_pieces
from .simd.vector import (
    f32x16_to_i32,
    fma,
    i8x16_to_f32,
    i32x8_to_f32,
    i32x16_to_i8,
    join,
    load_f32x8,
    load_f32x16,
    load_i8x16,
    magnitude,
    prefetch,
    round_down,
    splat_f32x16,
    store,
    with_sign_of,
)
from .tile import SCALES, TILE_BLOCK, tile_of

BYTES = 34


@inlined
def _load_pair(w):
    """Blocks 0 and 4 from w on, one in each half of the lanes: their first halves, their second."""
    four = w + 4 * BYTES
    return (
        join(load_i8x16(w + 2), load_i8x16(four + 2)),
        join(load_i8x16(w + 18), load_i8x16(four + 18)),
    )


@inlined
def _load_group(w):
    pairs = (
        _load_pair(w),
        _load_pair(w + BYTES),
        _load_pair(w + 2 * BYTES),
        _load_pair(w + 3 * BYTES),
    )
    return pairs, load_8_scales_34(w)


@inlined
def _add_group(so_far, weights, x, at):
    pairs, scale = weights
    dots = dot_pairs(no_bytes(), pairs, x.pairs + 8 * at)
    return fma(i32x8_to_f32(dots), scale * load_f32x8(x.scales + at), so_far)


_dot_rows = dot_of(GROUP * BYTES, _load_group, _add_group)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_rows(matrix, activations, first, last, n, out, out_stride, scratch)


@kernel
def _unpack_rows(rows, blocks, codes, scales, minimums):
    for block in range(blocks):
        at, to = block * BYTES, codes + block * TILE_BLOCK
        store_pieces(to, load_sixteen(rows, at + 2))
        store_pieces(to + TILE_BLOCK // 2, load_sixteen(rows, at + 18))
        store(scales + block * SCALES, load_f16_of_rows(rows, at))


_tile_rows = tile_of(_unpack_rows, no_bytes, 0)


@entry
def tile(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_rows(matrix, activations, first, last, n, out, out_stride, scratch)


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
            store(to, narrow_to_bf16(low * d, high * d))
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
