"""Products for formats that few models use: rows become float32 in scratch, then meet the tokens.

One `dot` and one `tile` serve them all, through the address of `unpack` in the matrix record: such
a format compiles one kernel of its own.
"""

from .dense_kernels import TILE_ROWS, dot_row, multiply_rows
from .jit import entry, inlined, kernel
from .records import activations_at, call_entry, matrix_at
from .simd.vector import load_f32x16, store

LANES = 16


@kernel
def _dot(matrix, activations, first, last, n, out, out_stride, scratch):
    m, x = matrix_at(matrix), activations_at(activations)
    for row in range(first, last):
        call_entry(m.unpack, (matrix, row, scratch, 0))
        for t in range(n):
            values = x.values + t * x.padded * 4
            value = dot_row(load_f32x16, 4, scratch, m.cols, values, 0)  # whole vectors: no rest
            store(out + t * out_stride + (row - first) * 4, value)


@entry
def dot(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot(matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile(matrix, activations, first, last, n, out, out_stride, scratch):
    m, x = matrix_at(matrix), activations_at(activations)
    start = first
    while start < last - 1:
        rows = min(TILE_ROWS, last - start) // 2 * 2
        for r in range(rows):
            call_entry(m.unpack, (matrix, start + r, scratch + r * x.padded * 4, 0))
        multiply_rows(scratch, rows, m.cols, x, n, out + (start - first) * 4, out_stride)
        start += rows
    _dot(matrix, activations, start, last, n, out + (start - first) * 4, out_stride, scratch)


@inlined
def unpack_row(sixteen, columns, size, matrix, row, out):
    """The body of `unpack` for blocks of so many columns and bytes.

    sixteen(w, i): of the block at w the weights 16 * i to 16 * i + 15, f32x16.
    """
    m = matrix_at(matrix)
    w = m.data + row * m.row_bytes
    for _ in range(m.cols // columns):
        for i in range(columns // LANES):
            store(out + i * LANES * 4, sixteen(w, i))
        w += size
        out += columns * 4
