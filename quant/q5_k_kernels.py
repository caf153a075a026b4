"""Products on raw Q5_K bytes (layout in q5_k.py): those on Q4_K with a fifth bit."""

from .jit import entry, inlined
from .q4_k_kernels import dot_of, tile_of, unpack_of
from .simd.integer import add_halves, add_products, no_fives, sum_half_lanes
from .simd.vector import high_nibbles, load_i8x16, load_i8x32, low_nibbles, take_bits

BYTES = 176
QH, QS = 16, 48  # where the codes are in a super-block


@inlined
def _fifth_bits(top, block):
    return take_bits(top, block, 1, 4)


@inlined
def _products(low, high, x):
    return add_products(no_fives(), low + high, load_i8x32(x))


@inlined
def _dot_blocks(w, x):
    """The dot products of the eight blocks of a super-block: i32x8."""
    top = load_i8x32(w + QH)
    a, b = load_i8x32(w + QS), load_i8x32(w + QS + 32)
    c, d = load_i8x32(w + QS + 64), load_i8x32(w + QS + 96)
    return sum_half_lanes(
        add_halves(
            _products(low_nibbles(a), _fifth_bits(top, 0), x),
            _products(low_nibbles(c), _fifth_bits(top, 4), x + 128),
        ),
        add_halves(
            _products(high_nibbles(a), _fifth_bits(top, 1), x + 32),
            _products(high_nibbles(c), _fifth_bits(top, 5), x + 160),
        ),
        add_halves(
            _products(low_nibbles(b), _fifth_bits(top, 2), x + 64),
            _products(low_nibbles(d), _fifth_bits(top, 6), x + 192),
        ),
        add_halves(
            _products(high_nibbles(b), _fifth_bits(top, 3), x + 96),
            _products(high_nibbles(d), _fifth_bits(top, 7), x + 224),
        ),
    )


@inlined
def _load_codes(w, pair, side):
    q, top = load_i8x16(w + QS + pair * 32 + side * 16), load_i8x16(w + QH + side * 16)
    even = low_nibbles(q) + _fifth_bits(top, 2 * pair)
    return even, high_nibbles(q) + _fifth_bits(top, 2 * pair + 1)


_dot_rows = dot_of(_dot_blocks, BYTES)
_tile_rows = tile_of(_load_codes, BYTES, no_fives)
_unpack_row = unpack_of(_load_codes, BYTES)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot_rows(matrix, activations, first, last, n, out, out_stride)


@entry
def tile(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile_rows(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack(matrix, row, out, scratch):
    _unpack_row(matrix, row, out, scratch)
