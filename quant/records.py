"""Records at an address, numpy's structured dtypes as seen from a kernel; and entries at one."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, types

from .kernels import ACTIVATIONS, MATRIX
from .simd.vector import intrinsic


def record_at(dtype: "np.dtype[Any]") -> Any:
    """An intrinsic that views the bytes at an address as a record of this dtype."""
    record = from_dtype(dtype)

    @intrinsic
    def view(typingctx: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(record))

        return record(types.int64), emit

    return view


@intrinsic
def address_of(typingctx: Any, record: Any) -> Any:
    """The address of a record, or of a record inside a record."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], context.get_value_type(types.int64))

    return types.int64(record), emit


@intrinsic
def call_entry(typingctx: Any, entry: Any, arguments: Any) -> Any:
    """Call the entry at an address with a tuple of int64."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        values = [builder.extract_value(args[1], i) for i in range(len(arguments))]
        kind = ir.FunctionType(ir.VoidType(), [i64] * len(values))
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), emit


matrix_at = record_at(MATRIX)
activations_at = record_at(ACTIVATIONS)
