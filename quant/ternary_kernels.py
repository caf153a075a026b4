"""TQ1_0 and TQ2_0 rows as float32, sixteen weights at a time (layouts in ternary.py)."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from .jit import entry, inlined
from .simd.half import load_f16
from .simd.vector import (
    bytes_of,
    constant,
    f32x16,
    i8x16,
    intrinsic,
    load_i8x16,
    load_i32,
    splat,
    splat_f32x16,
)
from .unpacked_kernels import unpack_row

COLUMNS = 256
TQ1_BYTES, TQ1_LAST, TQ1_SCALE = 54, 48, 52
TQ2_BYTES, TQ2_SCALE = 66, 64
POWERS = (1, 3, 9, 27, 81)


@intrinsic
def _top_digits(typingctx: Any, rest: Any) -> Any:
    """The first base-3 digit of uint8 fractions of 256: f32x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = ir.VectorType(ir.IntType(16), 16)
        thrice = builder.mul(builder.zext(args[0], wide), constant(wide, 3))
        return builder.uitofp(builder.lshr(thrice, constant(wide, 8)), f32x16.llvm)

    return f32x16(i8x16), emit


@intrinsic
def _two_bits(typingctx: Any, codes: Any, first: Any) -> Any:
    """Bits `first` and `first` + 1 of each byte: f32x16."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = ir.VectorType(ir.IntType(16), 16)
        places = splat(builder, builder.trunc(args[1], ir.IntType(16)), 16)
        moved = builder.lshr(builder.zext(args[0], wide), places)
        return builder.uitofp(builder.and_(moved, constant(wide, 3)), f32x16.llvm)

    return f32x16(i8x16, types.int64), emit


@inlined
def _splat_byte(value):
    eight = value * 0x0101010101010101
    return bytes_of(eight, eight)


@inlined
def _weights(digits, scale):
    return (digits - splat_f32x16(np.float32(1))) * splat_f32x16(scale)


@inlined
def _tq1(w, i):
    if i < 10:
        rest = load_i8x16(w + i % 2 * 16) * _splat_byte(POWERS[i // 2])
    elif i < 15:
        rest = load_i8x16(w + 32) * _splat_byte(POWERS[i - 10])
    else:
        four = np.int64(load_i32(w + TQ1_LAST)) & 0xFFFFFFFF
        twice = four | four << 32
        rest = bytes_of(twice, twice) * bytes_of(0x0303030301010101, 0x1B1B1B1B09090909)
    return _weights(_top_digits(rest), load_f16(w + TQ1_SCALE))


@inlined
def _tq2(w, i):
    codes = load_i8x16(w + i // 8 * 32 + i % 2 * 16)
    return _weights(_two_bits(codes, i % 8 // 2 * 2), load_f16(w + TQ2_SCALE))


@entry
def unpack_tq1_0(matrix, row, out, scratch):
    unpack_row(_tq1, COLUMNS, TQ1_BYTES, matrix, row, out)


@entry
def unpack_tq2_0(matrix, row, out, scratch):
    unpack_row(_tq2, COLUMNS, TQ2_BYTES, matrix, row, out)
