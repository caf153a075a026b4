"""IQ1, IQ2 and IQ3 rows as float32, sixteen weights at a time (layouts in iq1.py, iq2.py, iq3.py).

A scale times a magnitude fits the 24 bits of a float32, so the products are exact in any order.
"""

import numpy as np

from .codebooks import EVEN_SIGNS, codebook
from .jit import entry, inlined
from .simd.half import f16_of, load_f16
from .simd.lookup import book_in_memory, with_signs
from .simd.vector import (
    bytes_of,
    i8x16_to_f32,
    load_i8,
    load_i32,
    load_i64,
    splat_f32x16,
)
from .unpacked_kernels import unpack_row

COLUMNS = 256  # of a super-block
_EIGHT = 8  # bytes of an entry of the books of IQ1 and IQ2
_FOUR = 4  # and of those of IQ3
_ONES = 0x0101010101010101  # a one in each of eight bytes

_even_signs = book_in_memory(EVEN_SIGNS.view(np.int8))
_iq2_xxs_book = book_in_memory(codebook("IQ2_XXS"))
_iq2_xs_book = book_in_memory(codebook("IQ2_XS"))
_iq2_s_book = book_in_memory(codebook("IQ2_S"))
_iq3_xxs_book = book_in_memory(codebook("IQ3_XXS"))
_iq3_s_book = book_in_memory(codebook("IQ3_S"))
_iq1_book = book_in_memory(codebook("IQ1_S") * np.int8(8))  # IQ1_M's too: entry + shift in eighths


@inlined
def _byte(at):
    return np.int64(load_i8(at)) & 0xFF


@inlined
def _half(at):
    """An uint16."""
    return _byte(at) | _byte(at + 1) << 8


@inlined
def _word(at):
    """An uint32."""
    return np.int64(load_i32(at)) & 0xFFFFFFFF


@inlined
def _nibble(at, i):
    return _byte(at + i // 2) >> 4 * (i % 2) & 15


@inlined
def _two_entries(book, a, b):
    return bytes_of(load_i64(book + a * _EIGHT), load_i64(book + b * _EIGHT))


@inlined
def _four_entries(book, a, b, c, d):
    low = _word(book + a * _FOUR) | _word(book + b * _FOUR) << 32
    return bytes_of(low, _word(book + c * _FOUR) | _word(book + d * _FOUR) << 32)


@inlined
def _signs(two_sevens):
    """Sixteen signs by the fourteen that are stored."""
    low, high = two_sevens & 127, two_sevens >> 7 & 127
    return _byte(_even_signs() + low) | _byte(_even_signs() + high) << 8


@inlined
def _weights(codes, scale):
    return i8x16_to_f32(codes) * splat_f32x16(scale)


@inlined
def _quarters(d, sub):
    """The scale of IQ2: d * (1/2 + sub-scale) / 4."""
    return d * (np.float32(0.5) + np.float32(sub)) * np.float32(0.25)


@inlined
def _iq2_xxs(w, i):
    at = w + 2 + i // 2 * 8
    codes = at + i % 2 * 2
    word = _word(at + 4)
    found = _two_entries(_iq2_xxs_book(), _byte(codes), _byte(codes + 1))
    found = with_signs(found, _signs(word >> 14 * (i % 2)))
    return _weights(found, _quarters(load_f16(w), word >> 28))


@inlined
def _iq2_xs(w, i):
    a, b = _half(w + 2 + i * 4), _half(w + 4 + i * 4)
    found = _two_entries(_iq2_xs_book(), a & 511, b & 511)
    found = with_signs(found, _signs(a >> 9 | b >> 9 << 7))
    return _weights(found, _quarters(load_f16(w), _nibble(w + 66, i)))


@inlined
def _iq2_s(w, i):
    high = _nibble(w + 66, i)
    a = _byte(w + 2 + i * 2) | (high & 3) << 8
    b = _byte(w + 3 + i * 2) | high >> 2 << 8
    found = with_signs(_two_entries(_iq2_s_book(), a, b), _half(w + 34 + i * 2))
    return _weights(found, _quarters(load_f16(w), _nibble(w + 74, i)))


@inlined
def _iq3_xxs(w, i):
    at, word = w + 2 + i * 4, _word(w + 66 + i // 2 * 4)
    found = _four_entries(_iq3_xxs_book(), _byte(at), _byte(at + 1), _byte(at + 2), _byte(at + 3))
    found = with_signs(found, _signs(word >> 14 * (i % 2)))
    scale = load_f16(w) * (np.float32(0.5) + np.float32(word >> 28)) * np.float32(0.5)
    return _weights(found, scale)


@inlined
def _iq3_s(w, i):
    at, high = w + 2 + i * 4, _nibble(w + 66, i)
    found = _four_entries(
        _iq3_s_book(),
        _byte(at) | (high & 1) << 8,
        _byte(at + 1) | (high & 2) << 7,
        _byte(at + 2) | (high & 4) << 6,
        _byte(at + 3) | (high & 8) << 5,
    )
    found = with_signs(found, _half(w + 74 + i * 2))
    sub = _nibble(w + 106, i // 2)
    return _weights(found, load_f16(w) * np.float32(1 + 2 * sub))


@inlined
def _iq1_weights(entries, negative, scale):
    """negative: sixteen bits, set where the shift is. All in eighths."""
    shifts = with_signs(bytes_of(_ONES, _ONES), negative)
    return _weights(entries + shifts, scale * np.float32(0.125))


@inlined
def _iq1_s(w, i):
    qs, qh = w + 2 + i * 2, _half(w + 34 + i // 2 * 2)
    high = qh >> 6 * (i % 2)
    a, b = _byte(qs) | (high & 7) << 8, _byte(qs + 1) | (high >> 3 & 7) << 8
    scale = load_f16(w) * np.float32(1 + 2 * (qh >> 12 & 7))
    return _iq1_weights(_two_entries(_iq1_book(), a, b), (qh >> 15) * 0xFFFF, scale)


@inlined
def _iq1_m(w, i):
    qs, qh, scales = w + i * 2, _byte(w + 32 + i), w + 48
    a, b = _byte(qs) | (qh & 7) << 8, _byte(qs + 1) | (qh >> 4 & 7) << 8
    negative = (qh >> 3 & 1) * 0xFF | (qh >> 7) * 0xFF00
    sub = _half(scales + i // 4 * 2) >> 3 * (i % 4) & 7
    return _iq1_weights(
        _two_entries(_iq1_book(), a, b), negative, _iq1_m_scale(scales) * np.float32(1 + 2 * sub)
    )


@inlined
def _iq1_m_scale(scales):
    """The float16 whose parts stand in the highest bits of four uint16."""
    a, b, c, d = _half(scales), _half(scales + 2), _half(scales + 4), _half(scales + 6)
    return f16_of(a >> 12 | b >> 12 << 4 | c >> 12 << 8 | d >> 12 << 12)


@entry
def unpack_iq2_xxs(matrix, row, out, scratch):
    unpack_row(_iq2_xxs, COLUMNS, 66, matrix, row, out)


@entry
def unpack_iq2_xs(matrix, row, out, scratch):
    unpack_row(_iq2_xs, COLUMNS, 74, matrix, row, out)


@entry
def unpack_iq2_s(matrix, row, out, scratch):
    unpack_row(_iq2_s, COLUMNS, 82, matrix, row, out)


@entry
def unpack_iq3_xxs(matrix, row, out, scratch):
    unpack_row(_iq3_xxs, COLUMNS, 98, matrix, row, out)


@entry
def unpack_iq3_s(matrix, row, out, scratch):
    unpack_row(_iq3_s, COLUMNS, 110, matrix, row, out)


@entry
def unpack_iq1_s(matrix, row, out, scratch):
    unpack_row(_iq1_s, COLUMNS, 50, matrix, row, out)


@entry
def unpack_iq1_m(matrix, row, out, scratch):
    unpack_row(_iq1_m, COLUMNS, 56, matrix, row, out)
