"""Products on raw Q4_0 bytes (layout in q4_0.py)."""

import numpy as np

from .activations import largest_magnitude
from .dot import GROUP, add_without_offset, dot_of, dot_pairs
from .jit import entry, inlined, kernel
from .kernels import BLOCK
from .records import matrix_at
from .simd.half import load_8_scales_18, load_f16, load_f16_16_times, store_f16
from .simd.integer import no_nibbles
from .simd.rows import load_f16_of_rows, load_sixteen, store_pieces
from .simd.vector import (
    between,
    f32x16_to_i32,
    first_lane_with_magnitude,
    high_nibbles,
    i8x16_to_f32,
    i32x16_to_i8,
    join,
    join_nibbles,
    lane_numbers,
    load_f32,
    load_f32x16,
    load_i8x16,
    low_nibbles,
    smaller_int,
    splat_f32x16,
    splat_i32x16,
    store,
)
from .tile import SCALES, TILE_BLOCK, tile_of
from .widening import widen_of

BYTES = 18
OFFSET = 8  # w = d * (nibble - 8)


@inlined
def _load_pair(w):
    """Blocks 0 and 4 from w on, one in each half of the lanes: their first halves, their second."""
    q = join(load_i8x16(w + 2), load_i8x16(w + 4 * BYTES + 2))
    return low_nibbles(q), high_nibbles(q)


@inlined
def _load_group(w):
    pairs = (
        _load_pair(w),
        _load_pair(w + BYTES),
        _load_pair(w + 2 * BYTES),
        _load_pair(w + 3 * BYTES),
    )
    return pairs, load_8_scales_18(w)


@inlined
def _add_group(so_far, weights, x, at):
    pairs, scale = weights
    dots = dot_pairs(no_nibbles(), pairs, x.pairs + 8 * at)
    return add_without_offset(so_far, dots, OFFSET, scale, x, at)


_dot_rows = dot_of(GROUP * BYTES, _load_group, _add_group)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_rows(matrix, activations, first, last, n, out, out_stride, scratch)


@kernel
def _unpack_rows(rows, blocks, codes, scales, minimums):
    for block in range(blocks):
        at, to = block * BYTES, codes + block * TILE_BLOCK
        q = load_sixteen(rows, at + 2)
        store_pieces(to, low_nibbles(q))
        store_pieces(to + TILE_BLOCK // 2, high_nibbles(q))
        store(scales + block * SCALES, load_f16_of_rows(rows, at))


_tile_rows = tile_of(_unpack_rows, no_nibbles, OFFSET)


@entry
def tile(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_rows(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack(matrix, row, out, scratch):
    m = matrix_at(matrix)
    for block in range(m.cols // BLOCK):
        w = m.data + row * m.row_bytes + block * BYTES
        d, eight = splat_f32x16(load_f16(w)), splat_f32x16(np.float32(OFFSET))
        q = load_i8x16(w + 2)
        store(out + block * BLOCK * 4, (i8x16_to_f32(low_nibbles(q)) - eight) * d)
        store(out + block * BLOCK * 4 + 64, (i8x16_to_f32(high_nibbles(q)) - eight) * d)


@inlined
def _block_of(row, block):
    w = row + block * BYTES
    weights = lane_numbers() - splat_f32x16(np.float32(OFFSET))  # of the codes 0..15
    return w + 2, weights * load_f16_16_times(w)


_widen_rows = widen_of(_block_of)


@entry
def widen(matrix, first, last, out, out_stride, scratch):
    _widen_rows(matrix, first, last, out, out_stride)


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
