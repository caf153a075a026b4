"""Products on raw IQ4_NL and IQ4_XS bytes (layouts in iq4_nl.py, iq4_xs.py).

The 16 values are int8, so the integer dot product of a block is one of signed bytes. The scale of
a block of IQ4_XS, d times a sub-scale of six bits, is exact as float32.
"""

import numpy as np

from .iq4_nl import VALUES
from .jit import entry, inlined, kernel
from .kernels import BLOCK, TILE_ROWS
from .memory import copy_bytes, zero_bytes
from .records import activations_at, matrix_at
from .simd.half import load_8_scales_18, load_f16
from .simd.integer import add_products, no_bytes, sum_half_lanes, total_of
from .simd.lookup import bit_fields, lookup16
from .simd.vector import (
    fma,
    high_nibbles,
    i8x16_to_f32,
    i32x8_to_f32,
    join,
    load_f32x8,
    load_i8,
    load_i8x16,
    load_i8x32,
    load_i32,
    low_nibbles,
    prefetch,
    splat_f32x8,
    splat_f32x16,
    splat_i32x8,
    store,
    sum_lanes,
)
from .tile import SCALES, TILE_BLOCK, multiply_tile, scatter_lanes

GROUP = 8  # blocks taken at once
GROUP_COLUMNS = GROUP * BLOCK
NL_BYTES, NL_CODES = 18, 2  # of a block, and where its codes begin
NL_GROUP_BYTES = GROUP * NL_BYTES
XS_BYTES, XS_CODES, XS_BLOCK = 136, 8, 16  # of a super-block; codes of one block of it
AHEAD = 4096  # bytes of prefetch: rows are short, so the hardware's own guess starts late

_values_of = lookup16(VALUES)

# A kernel that takes another as an argument is inlined: passed on, it would be an address, which
# machine code on disk cannot hold.


@inlined
def _dot_pair(w, step, pairs):
    """The block whose codes are at w, and the one four further on: each in a half of the lanes."""
    q = join(load_i8x16(w), load_i8x16(w + 4 * step))
    low = add_products(no_bytes(), _values_of(low_nibbles(q)), load_i8x32(pairs))
    return add_products(low, _values_of(high_nibbles(q)), load_i8x32(pairs + 32))


@inlined
def _dot_eight(w, step, pairs):
    """Eight blocks, one a lane; w: the codes of the first, those of the next `step` bytes on."""
    return sum_half_lanes(
        _dot_pair(w, step, pairs),
        _dot_pair(w + step, step, pairs + 64),
        _dot_pair(w + 2 * step, step, pairs + 128),
        _dot_pair(w + 3 * step, step, pairs + 192),
    )


@inlined
def _add_nl(so_far, w, pairs, scales):
    """Eight blocks of an IQ4_NL row, one a lane."""
    dots = total_of(_dot_eight(w + NL_CODES, NL_BYTES, pairs))
    return fma(i32x8_to_f32(dots), load_8_scales_18(w) * load_f32x8(scales), so_far)


@inlined
def _xs_scales(w):
    """The scales of the eight blocks of a super-block: f32x8."""
    sub = bit_fields(load_i32(w + 4), 4) + bit_fields(load_i32(w + 2), 2) * splat_i32x8(
        np.int32(16)
    )
    return i32x8_to_f32(sub - splat_i32x8(np.int32(32))) * splat_f32x8(load_f16(w))


@inlined
def _add_xs(so_far, w, pairs, scales):
    """A super-block, a block a lane."""
    dots = total_of(_dot_eight(w + XS_CODES, XS_BLOCK, pairs))
    return fma(i32x8_to_f32(dots), _xs_scales(w) * load_f32x8(scales), so_far)


@inlined
def _prefetch_group(w):
    prefetch(w)
    prefetch(w + 64)


@kernel
def _dot_nl_row(w, pairs, scales, blocks, scratch):
    total = splat_f32x8(np.float32(0))
    groups = blocks // GROUP
    for g in range(groups):
        at = w + g * NL_GROUP_BYTES
        _prefetch_group(at + AHEAD)
        total = _add_nl(total, at, pairs + g * GROUP_COLUMNS, scales + g * 32)
    rest = blocks - groups * GROUP
    if rest:
        zero_bytes(scratch, NL_GROUP_BYTES)
        copy_bytes(scratch, w + groups * NL_GROUP_BYTES, rest * NL_BYTES)
        total = _add_nl(total, scratch, pairs + groups * GROUP_COLUMNS, scales + groups * 32)
    return sum_lanes(total)


@kernel
def _dot_xs_row(w, pairs, scales, blocks, scratch):
    total = splat_f32x8(np.float32(0))
    for g in range(blocks // GROUP):
        at = w + g * XS_BYTES
        _prefetch_group(at + AHEAD)
        total = _add_xs(total, at, pairs + g * GROUP_COLUMNS, scales + g * 32)
    return sum_lanes(total)


@inlined
def _dot(dot_row, matrix, activations, first, last, n, out, out_stride, scratch):
    m, x = matrix_at(matrix), activations_at(activations)
    blocks = m.cols // BLOCK
    per_token = x.padded // BLOCK * 4
    for row in range(first, last):
        w = m.data + row * m.row_bytes
        for t in range(n):
            value = dot_row(w, x.pairs + t * x.padded, x.scales + t * per_token, blocks, scratch)
            store(out + t * out_stride + (row - first) * 4, value)


@inlined
def _nl_block(row, block):
    """(codes, scale) of a block of a row: the address of the codes, and float32."""
    w = row + block * NL_BYTES
    return w + NL_CODES, load_f16(w)


@inlined
def _xs_block(row, block):
    w, i = row + block // GROUP * XS_BYTES, block % GROUP
    low = load_i8(w + 4 + i // 2) >> (4 * (i % 2)) & 15
    high = load_i8(w + 2 + i // 4) >> (2 * (i % 4)) & 3
    sub = np.float32(low + 16 * high - 32)
    return w + XS_CODES + i * XS_BLOCK, load_f16(w) * sub


@inlined
def _tile(block_of, matrix, activations, first, last, n, out, out_stride, scratch):
    m = matrix_at(matrix)
    blocks = m.cols // BLOCK
    scales = scratch + blocks * TILE_BLOCK
    for start in range(first, last, TILE_ROWS):
        rows = min(TILE_ROWS, last - start)
        for r in range(rows):
            row = m.data + (start + r) * m.row_bytes
            for block in range(blocks):
                at = scratch + block * TILE_BLOCK + r * 4
                codes, scale = block_of(row, block)
                q = load_i8x16(codes)
                scatter_lanes(at, _values_of(low_nibbles(q)))
                scatter_lanes(at + TILE_BLOCK // 2, _values_of(high_nibbles(q)))
                store(scales + block * SCALES + r * 4, scale)
        to = out + (start - first) * 4
        multiply_tile(no_bytes(), 0, scratch, blocks, rows, activations, n, to, out_stride)


@inlined
def _unpack(block_of, matrix, row, out):
    m = matrix_at(matrix)
    for block in range(m.cols // BLOCK):
        codes, scale = block_of(m.data + row * m.row_bytes, block)
        q, d, to = load_i8x16(codes), splat_f32x16(scale), out + block * BLOCK * 4
        store(to, i8x16_to_f32(_values_of(low_nibbles(q))) * d)
        store(to + 64, i8x16_to_f32(_values_of(high_nibbles(q))) * d)


@entry
def dot_iq4_nl(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot(_dot_nl_row, matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile_iq4_nl(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile(_nl_block, matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack_iq4_nl(matrix, row, out, scratch):
    _unpack(_nl_block, matrix, row, out)


@entry
def dot_iq4_xs(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot(_dot_xs_row, matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile_iq4_xs(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile(_xs_block, matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack_iq4_xs(matrix, row, out, scratch):
    _unpack(_xs_block, matrix, row, out)
