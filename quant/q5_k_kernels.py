"""Products on raw Q5_K bytes (layout in q5_k.py): those on Q4_K with a fifth bit."""

from .jit import entry, inlined
from .q4_k_kernels import (
    dot_of_pairs,
    load_halves,
    tile_of_pairs,
    unpack_of,
    weights_of_codes,
    widen_of,
)
from .simd.bfloat import look_up_32, narrow_to_bf16
from .simd.integer import no_fives
from .simd.rows import load_sixteen
from .simd.vector import high_nibbles, join, load_i8x16, load_i8x32, low_nibbles, take_bits

BYTES = 176
QH, QS = 16, 48  # where the codes are in a super-block


@inlined
def _fifth_bits(top, block):
    return take_bits(top, block, 1, 4)


@inlined
def _load_fifth_bits(w):
    """Bit i: of blocks i and i + 4."""
    top = load_i8x16(w)
    return join(low_nibbles(top), high_nibbles(top))


@inlined
def _load_pairs(w):
    a, b, c, d = load_halves(w + QS)
    first, second = _load_fifth_bits(w + QH), _load_fifth_bits(w + QH + 16)
    return (
        (low_nibbles(a) + _fifth_bits(first, 0), low_nibbles(b) + _fifth_bits(second, 0)),
        (high_nibbles(a) + _fifth_bits(first, 1), high_nibbles(b) + _fifth_bits(second, 1)),
        (low_nibbles(c) + _fifth_bits(first, 2), low_nibbles(d) + _fifth_bits(second, 2)),
        (high_nibbles(c) + _fifth_bits(first, 3), high_nibbles(d) + _fifth_bits(second, 3)),
    )


@inlined
def _load_top(place, at, side):
    return load_sixteen(place, at + QH + side * 16)


@inlined
def _load_codes(place, at, top, pair, side):
    q = load_sixteen(place, at + QS + pair * 32 + side * 16)
    even = low_nibbles(q) + _fifth_bits(top, 2 * pair)
    return even, high_nibbles(q) + _fifth_bits(top, 2 * pair + 1)


@inlined
def _widen_block(codes, at):
    return look_up_32(narrow_to_bf16(weights_of_codes(0, at), weights_of_codes(16, at)), codes)


@inlined
def _widen_pair(w, pair, at):
    q, top = load_i8x32(w + QS + pair * 32), load_i8x32(w + QH)
    even = low_nibbles(q) + _fifth_bits(top, 2 * pair)
    odd = high_nibbles(q) + _fifth_bits(top, 2 * pair + 1)
    return _widen_block(even, at), _widen_block(odd, at + 4)


_dot_rows = dot_of_pairs(_load_pairs, BYTES, no_fives)
_tile_rows = tile_of_pairs(_load_top, _load_codes, BYTES, no_fives)
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
