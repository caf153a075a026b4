"""Copying and clearing bytes by address."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .simd.vector import intrinsic


@intrinsic
def copy_bytes(typingctx: Any, target: Any, source: Any, n: Any) -> Any:
    """Copy n bytes; the two places must not overlap."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        to, origin = builder.inttoptr(args[0], pointer), builder.inttoptr(args[1], pointer)
        cgutils.raw_memcpy(builder, to, origin, args[2], 1, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


@intrinsic
def zero_bytes(typingctx: Any, target: Any, n: Any) -> Any:
    """Clear n bytes."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        cgutils.memset(builder, builder.inttoptr(args[0], pointer), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit
