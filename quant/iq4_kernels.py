"""Products on raw IQ4_NL and IQ4_XS bytes (layouts in iq4_nl.py, iq4_xs.py).

The 16 values are int8, so the integer dot product of a block is one of signed bytes. The scale of
a block of IQ4_XS, d times a sub-scale of six bits, is exact as float32.
"""

import numpy as np

from .dot import GROUP, dot_of, dot_pairs
from .iq4_nl import VALUES
from .jit import entry, inlined, kernel
from .kernels import BLOCK
from .records import matrix_at
from .simd.half import load_8_scales_18, load_f16
from .simd.integer import no_bytes
from .simd.lookup import bit_fields, lookup16
from .simd.rows import (
    bits_of_lanes,
    f16_of_lanes,
    load_f16_of_rows,
    load_sixteen,
    registers_of,
    store_pieces,
)
from .simd.vector import (
    f32x16_to_i32,
    fma,
    high_nibbles,
    i8x16_to_f32,
    i32x8_to_f32,
    i32x16_to_i8,
    join,
    lane_numbers,
    load_f32x8,
    load_i8,
    load_i8x16,
    load_i32,
    low_nibbles,
    splat_f32x8,
    splat_f32x16,
    splat_i32x8,
    store,
)
from .tile import SCALES, TILE_BLOCK, tile_of
from .widening import widen_of

NL_BYTES, NL_CODES = 18, 2  # of a block, and where its codes begin
XS_BYTES, XS_CODES, XS_BLOCK = 136, 8, 16  # of a super-block; codes of one block of it

_values_of = lookup16(VALUES)

# A kernel that takes another as an argument is inlined: passed on, it would be an address, which
# machine code on disk cannot hold.


@inlined
def _load_pair(w, step):
    """The block whose codes are at w, and the one four further on, each in a half of the lanes:
    their first halves, and their second.
    """
    q = join(load_i8x16(w), load_i8x16(w + 4 * step))
    return _values_of(low_nibbles(q)), _values_of(high_nibbles(q))


@inlined
def _load_pairs(w, step):
    """Eight blocks; w: the codes of the first, those of the next `step` bytes on."""
    return (
        _load_pair(w, step),
        _load_pair(w + step, step),
        _load_pair(w + 2 * step, step),
        _load_pair(w + 3 * step, step),
    )


@inlined
def _add_group(so_far, weights, x, at):
    pairs, scale = weights
    dots = dot_pairs(no_bytes(), pairs, x.pairs + 8 * at)
    return fma(i32x8_to_f32(dots), scale * load_f32x8(x.scales + at), so_far)


@inlined
def _xs_scales(w):
    """The scales of the eight blocks of a super-block: f32x8."""
    sub = bit_fields(load_i32(w + 4), 4) + bit_fields(load_i32(w + 2), 2) * splat_i32x8(
        np.int32(16)
    )
    return i32x8_to_f32(sub - splat_i32x8(np.int32(32))) * splat_f32x8(load_f16(w))


@inlined
def _load_nl(w):
    return _load_pairs(w + NL_CODES, NL_BYTES), load_8_scales_18(w)


@inlined
def _load_xs(w):
    return _load_pairs(w + XS_CODES, XS_BLOCK), _xs_scales(w)


_dot_nl = dot_of(GROUP * NL_BYTES, _load_nl, _add_group)
_dot_xs = dot_of(XS_BYTES, _load_xs, _add_group)


@inlined
def _halves(place, at):
    """The values of a block whose codes are there: its first half and its second."""
    q = load_sixteen(place, at)
    return _values_of(low_nibbles(q)), _values_of(high_nibbles(q))


@inlined
def _unpack_block(rows, at, to):
    first, second = _halves(rows, at)
    store_pieces(to, first)
    store_pieces(to + TILE_BLOCK // 2, second)


@kernel
def _unpack_nl_rows(rows, blocks, codes, scales, minimums):
    for block in range(blocks):
        _unpack_block(rows, block * NL_BYTES + NL_CODES, codes + block * TILE_BLOCK)
        store(scales + block * SCALES, load_f16_of_rows(rows, block * NL_BYTES))


@kernel
def _unpack_xs_rows(rows, blocks, codes, scales, minimums):
    for block in range(blocks):
        at, i = block // GROUP * XS_BYTES, block % GROUP
        _unpack_block(rows, at + XS_CODES + i * XS_BLOCK, codes + block * TILE_BLOCK)
        head, low, _, _ = registers_of(load_sixteen(rows, at))
        sub = bits_of_lanes(low, 4 * i, 15) + bits_of_lanes(head, 16 + 2 * i, 3) * splat_i32x8(
            np.int32(16)
        )
        sub = i32x8_to_f32(sub - splat_i32x8(np.int32(32)))
        store(scales + block * SCALES, f16_of_lanes(head, 0) * sub)


_tile_nl = tile_of(_unpack_nl_rows, no_bytes, 0)
_tile_xs = tile_of(_unpack_xs_rows, no_bytes, 0)


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
def _unpack(block_of, matrix, row, out):
    m = matrix_at(matrix)
    for block in range(m.cols // BLOCK):
        codes, scale = block_of(m.data + row * m.row_bytes, block)
        (first, second), d, to = _halves(codes, 0), splat_f32x16(scale), out + block * BLOCK * 4
        store(to, i8x16_to_f32(first) * d)
        store(to + 64, i8x16_to_f32(second) * d)


@inlined
def _all_values():
    return i8x16_to_f32(_values_of(i32x16_to_i8(f32x16_to_i32(lane_numbers()))))


@inlined
def _nl_weights(row, block):
    codes, scale = _nl_block(row, block)
    return codes, _all_values() * splat_f32x16(scale)


@inlined
def _xs_weights(row, block):
    codes, scale = _xs_block(row, block)
    return codes, _all_values() * splat_f32x16(scale)


_widen_nl, _widen_xs = widen_of(_nl_weights), widen_of(_xs_weights)


@entry
def dot_iq4_nl(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_nl(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile_iq4_nl(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_nl(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack_iq4_nl(matrix, row, out, scratch):
    _unpack(_nl_block, matrix, row, out)


@entry
def dot_iq4_xs(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_xs(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile_iq4_xs(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_xs(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack_iq4_xs(matrix, row, out, scratch):
    _unpack(_xs_block, matrix, row, out)


@entry
def widen_iq4_nl(matrix, first, last, out, out_stride, scratch):
    _widen_nl(matrix, first, last, out, out_stride)


@entry
def widen_iq4_xs(matrix, first, last, out, out_stride, scratch):
    _widen_xs(matrix, first, last, out, out_stride)
