"""Activations as the products want them: padded with zeros, and as int8 codes of 32 to a scale.

scale = max |value| / 127;  code = round(value / scale), ties to even;  sums of the codes of a block
and of each half of it
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
def quantize_block(values, codes, scale, total, halves):
    """32 float32 at `values` to int8 at `codes`, float32 at `scale`, int32 at `total`, and int16 of
    the first and of the second 16 at `halves`.
    """
    low, high = load_f32x16(values), load_f32x16(values + 64)
    peak = largest_magnitude(low, high)
    inverse = splat_f32x16(np.float32(127) / peak if peak != 0 else np.float32(0))
    a = f32x16_to_i32(round_even(low * inverse))
    b = f32x16_to_i32(round_even(high * inverse))
    store(codes, i32x16_to_i8(a))
    store(codes + 16, i32x16_to_i8(b))
    store(scale, np.float32(peak / np.float32(127)))
    first, second = sum_lanes(a), sum_lanes(b)
    store(total, np.int32(first + second))
    store(halves, np.int16(first))
    store(halves + 2, np.int16(second))


@kernel
def quantize_row(x, t):
    """Codes, scales and sums of row t of the activations record x, from its values."""
    blocks = x.padded // BLOCK
    for b in range(blocks):
        quantize_block(
            x.values + (t * x.padded + b * BLOCK) * 4,
            x.codes + t * x.padded + b * BLOCK,
            x.scales + (t * blocks + b) * 4,
            x.sums + (t * blocks + b) * 4,
            x.half_sums + (t * blocks + b) * 4,
        )
