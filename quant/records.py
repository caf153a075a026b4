"""Records at an address: numpy's structured dtypes as seen from a kernel."""

from typing import Any

import numpy as np
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


matrix_at = record_at(MATRIX)
activations_at = record_at(ACTIVATIONS)
