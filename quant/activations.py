"""Activations as the products want them: padded with zeros, and as int8 codes of 32 to a scale.

scale = max |value| / 127;  code = round(value / scale), ties to even;  sums of the codes of a block
and of each half of it;  total = scale * sum

The codes stand twice: by columns, and in pairs for weights whose 16 bytes hold the first half of a
block as low nibbles and the second half as high ones: of each eight blocks, the first halves of
blocks 0 and 4, their second halves, the first halves of blocks 1 and 5, ...
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from .jit import inlined, kernel
from .kernels import BLOCK
from .simd.vector import (
    call,
    constant,
    f32x16,
    f32x16_to_i32,
    i32x16_to_i8,
    intrinsic,
    load_f32x16,
    round_even,
    splat_f32x16,
    store,
    sum_lanes,
)


@intrinsic
def largest_magnitude(typingctx: Any, a: Any, b: Any) -> Any:
    """max |x| over the lanes of both; NaN when there is one, so that it is not lost."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        # as integers, float magnitudes order like floats, infinity above them and NaN above that
        kind = ir.VectorType(ir.IntType(32), 16)
        bits = [builder.and_(builder.bitcast(v, kind), constant(kind, 0x7FFFFFFF)) for v in args]
        both = builder.select(builder.icmp_signed(">", *bits), *bits)
        top = call(builder, "llvm.vector.reduce.smax.v16i32", ir.IntType(32), [both])
        return builder.bitcast(top, ir.FloatType())

    return types.float32(f32x16, f32x16), emit


@inlined
def quantize_block(x, t, block):
    """Codes, scale and sums of a block of row t of the activations record x, from its values."""
    at = t * x.padded + block * BLOCK
    low, high = load_f32x16(x.values + at * 4), load_f32x16(x.values + at * 4 + 64)
    peak = largest_magnitude(low, high)
    inverse = splat_f32x16(np.float32(127) / peak if peak != 0 else np.float32(0))
    a = f32x16_to_i32(round_even(low * inverse))
    b = f32x16_to_i32(round_even(high * inverse))
    store(x.codes + at, i32x16_to_i8(a))
    store(x.codes + at + 16, i32x16_to_i8(b))
    place = x.pairs + t * x.padded + pair_place(block)
    store(place, i32x16_to_i8(a))
    store(place + 32, i32x16_to_i8(b))
    number = at // BLOCK
    scale = np.float32(peak / np.float32(127))
    first, second = sum_lanes(a), sum_lanes(b)
    store(x.scales + number * 4, scale)
    store(x.sums + number * 4, np.int32(first + second))
    store(x.totals + number * 4, scale * np.float32(first + second))
    store(x.half_sums + number * 4, np.int16(first))
    store(x.half_sums + number * 4 + 2, np.int16(second))


@inlined
def pair_place(block):
    """Where the first half of a block stands among the pairs; the second is 32 bytes further."""
    return block // 8 * 8 * BLOCK + block % 4 * 2 * BLOCK + block % 8 // 4 * 16


@kernel
def quantize_columns(x, t, first, last):
    """Codes, scales and sums of row t, in the blocks that columns first..last touch."""
    for block in range(first // BLOCK, -(-last // BLOCK)):
        quantize_block(x, t, block)


@kernel
def quantize_row(x, t):
    """Codes, scales and sums of row t of the activations record x, from its values."""
    quantize_columns(x, t, 0, x.padded)
