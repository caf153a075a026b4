"""MXFP4 rows as float32 (layout in mxfp4.py)."""

import numpy as np

from .jit import entry, inlined
from .kernels import BLOCK
from .mxfp4 import VALUES
from .simd.lookup import lookup16
from .simd.vector import (
    high_nibbles,
    i8x16_to_f32,
    load_i8,
    load_i8x16,
    low_nibbles,
    power_of_two,
    splat_i32x16,
)
from .unpacked_kernels import unpack_row

BYTES = 17

_values_of = lookup16(VALUES)


@inlined
def _power_of_two(exponent):
    """2 ** exponent for -128..127: in two steps, because the least of them are denormal."""
    half = exponent // 2
    a, b = splat_i32x16(np.int32(half)), splat_i32x16(np.int32(exponent - half))
    return power_of_two(a) * power_of_two(b)


@inlined
def _sixteen(w, i):
    q = load_i8x16(w + 1)
    values = _values_of(low_nibbles(q) if i == 0 else high_nibbles(q))
    return i8x16_to_f32(values) * _power_of_two((np.int64(load_i8(w)) & 0xFF) - 128)


@entry
def unpack(matrix, row, out, scratch):
    unpack_row(_sixteen, BLOCK, BYTES, matrix, row, out)
