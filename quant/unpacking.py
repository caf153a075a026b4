"""Unpacking many rows: what Format.dequantize gives, bit for bit, by the kernel of the format."""

import os

import numpy as np
import numpy.typing as npt

from .format import MANY, Format

_LANES = 16  # a kernel writes whole vectors


def unpack_rows(format: Format, packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(rows, row_bytes) uint8 -> (rows, cols) float32; it lets other threads run.

    Few rows, and any where the JIT is off, are numpy's: see Format.dequantize, also for errors.
    """
    n_blocks, rest = divmod(packed.size, format.type_size)
    size = n_blocks * format.block_size
    interpreted = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    if size < MANY or rest or packed.ndim != 2 or interpreted:
        return format.dequantize(packed)
    from .kernels import MATRIX

    data = np.ascontiguousarray(packed)
    matrix = np.zeros(1, MATRIX)  # of one row: blocks know nothing of rows
    matrix["data"], matrix["rows"], matrix["cols"] = data.ctypes.data, 1, size
    matrix["row_bytes"] = data.size
    values = np.empty(-(-size // _LANES) * _LANES, np.float32)
    scratch = np.empty(4 * _LANES, np.uint8)  # for the end of a row of numbers
    format.products.unpack.call(matrix.ctypes.data, 0, values.ctypes.data, scratch.ctypes.data)
    return values[:size].reshape(len(packed), -1)
