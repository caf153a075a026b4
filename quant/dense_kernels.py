"""Products on F32, F16 and BF16 rows: float32 arithmetic, one loader a format."""

import numpy as np

from .jit import entry, inlined, kernel
from .memory import copy_bytes, zero_bytes
from .records import activations_at, matrix_at
from .simd.bfloat import load_bf16x16, narrow_to_bf16
from .simd.half import load_f16x16
from .simd.vector import fma, load_f32x16, prefetch, splat_f32x16, store, sum_lanes

LANES = 16
TILE_ROWS = 8  # rows unpacked at once
AHEAD = 1024  # bytes of prefetch: rows are short, so the hardware's own guess starts late


@inlined
def _zero():
    return splat_f32x16(np.float32(0))


@kernel
def _load_rest(load, size, w, n, scratch):
    """The last n < 16 numbers of a row, then zeros: never read past the end of a row."""
    zero_bytes(scratch, LANES * size)
    copy_bytes(scratch, w, n * size)
    return load(scratch)


@kernel
def dot_row(load, size, w, cols, x, scratch):
    total = _zero()
    whole = cols // LANES * LANES
    for i in range(0, whole, LANES):
        prefetch(w + i * size + AHEAD)
        total = fma(load(w + i * size), load_f32x16(x + i * 4), total)
    if whole < cols:
        rest = _load_rest(load, size, w + whole * size, cols - whole, scratch)
        total = fma(rest, load_f32x16(x + whole * 4), total)
    return sum_lanes(total)


@kernel
def _dot_four_rows(load, size, w, row_bytes, cols, x, scratch, out):
    """Four rows at once: independent sums, and four streams to fill the memory bus."""
    a = b = c = d = _zero()
    w1, w2, w3 = w + row_bytes, w + 2 * row_bytes, w + 3 * row_bytes
    whole = cols // LANES * LANES
    for i in range(0, whole, LANES):
        at, v = i * size, load_f32x16(x + i * 4)
        prefetch(w + at + AHEAD)
        prefetch(w1 + at + AHEAD)
        prefetch(w2 + at + AHEAD)
        prefetch(w3 + at + AHEAD)
        a, b = fma(load(w + at), v, a), fma(load(w1 + at), v, b)
        c, d = fma(load(w2 + at), v, c), fma(load(w3 + at), v, d)
    if whole < cols:
        at, n, v = whole * size, cols - whole, load_f32x16(x + whole * 4)
        a = fma(_load_rest(load, size, w + at, n, scratch), v, a)
        b = fma(_load_rest(load, size, w1 + at, n, scratch), v, b)
        c = fma(_load_rest(load, size, w2 + at, n, scratch), v, c)
        d = fma(_load_rest(load, size, w3 + at, n, scratch), v, d)
    store(out, sum_lanes(a))
    store(out + 4, sum_lanes(b))
    store(out + 8, sum_lanes(c))
    store(out + 12, sum_lanes(d))


@kernel
def _dot(load, size, matrix, activations, first, last, n, out, out_stride, scratch):
    m, x = matrix_at(matrix), activations_at(activations)
    row = first
    while row < last:
        w = m.data + row * m.row_bytes
        count = 4 if row + 4 <= last else 1
        for t in range(n):
            values = x.values + t * x.padded * 4
            to = out + t * out_stride + (row - first) * 4
            if count == 4:
                _dot_four_rows(load, size, w, m.row_bytes, m.cols, values, scratch, to)
            else:
                store(to, dot_row(load, size, w, m.cols, values, scratch))
        row += count


@kernel
def _unpack(load, size, w, cols, out, scratch):
    """A row as float32, zeros up to the next multiple of 16."""
    whole = cols // LANES * LANES
    for i in range(0, whole, LANES):
        store(out + i * 4, load(w + i * size))
    if whole < cols:
        store(out + whole * 4, _load_rest(load, size, w + whole * size, cols - whole, scratch))


@kernel
def _widen(load, size, matrix, first, last, out, out_stride, scratch):
    m = matrix_at(matrix)
    whole = m.cols // (2 * LANES) * (2 * LANES)
    for row in range(first, last):
        w, to = m.data + row * m.row_bytes, out + (row - first) * out_stride
        for i in range(0, whole, 2 * LANES):
            prefetch(w + 2 * m.row_bytes + i * size)
            low, high = load(w + i * size), load(w + (i + LANES) * size)
            store(to + i * 2, narrow_to_bf16(low, high))
        if whole < m.cols:
            zero_bytes(scratch, 2 * LANES * size)
            copy_bytes(scratch, w + whole * size, (m.cols - whole) * size)
            low, high = load(scratch), load(scratch + LANES * size)
            store(to + whole * 2, narrow_to_bf16(low, high))


@kernel
def _two_rows_three_tokens(w, row_bytes, cols, x0, x1, x2, out0, out1, out2):
    a0 = a1 = a2 = b0 = b1 = b2 = _zero()
    for i in range(0, cols * 4, LANES * 4):
        wa, wb = load_f32x16(w + i), load_f32x16(w + row_bytes + i)
        v = load_f32x16(x0 + i)
        a0, b0 = fma(wa, v, a0), fma(wb, v, b0)
        v = load_f32x16(x1 + i)
        a1, b1 = fma(wa, v, a1), fma(wb, v, b1)
        v = load_f32x16(x2 + i)
        a2, b2 = fma(wa, v, a2), fma(wb, v, b2)
    store(out0, sum_lanes(a0))
    store(out1, sum_lanes(a1))
    store(out2, sum_lanes(a2))
    store(out0 + 4, sum_lanes(b0))
    store(out1 + 4, sum_lanes(b1))
    store(out2 + 4, sum_lanes(b2))


@kernel
def multiply_rows(w, rows, cols, x, n, out, out_stride):
    """out[t, r] of an even number of float32 rows, x.padded columns apart, and all tokens."""
    row_bytes = x.padded * 4
    for t in range(0, n, 3):
        t1, t2 = min(t + 1, n - 1), min(t + 2, n - 1)  # a short group repeats its last token
        for r in range(0, rows, 2):
            to = out + r * 4
            _two_rows_three_tokens(
                w + r * row_bytes,
                row_bytes,
                cols,
                x.values + t * row_bytes,
                x.values + t1 * row_bytes,
                x.values + t2 * row_bytes,
                to + t * out_stride,
                to + t1 * out_stride,
                to + t2 * out_stride,
            )


@kernel
def _tile(load, size, matrix, activations, first, last, n, out, out_stride, scratch):
    m, x = matrix_at(matrix), activations_at(activations)
    row_bytes = x.padded * 4
    spare = scratch + TILE_ROWS * row_bytes
    start = first
    while start < last:
        rows = min(TILE_ROWS, last - start) // 2 * 2
        if rows == 0:  # an odd last row
            _dot(
                load,
                size,
                matrix,
                activations,
                start,
                last,
                n,
                out + (start - first) * 4,
                out_stride,
                spare,
            )
            return
        for r in range(rows):
            _unpack(
                load,
                size,
                m.data + (start + r) * m.row_bytes,
                m.cols,
                scratch + r * row_bytes,
                spare,
            )
        multiply_rows(scratch, rows, m.cols, x, n, out + (start - first) * 4, out_stride)
        start += rows


@entry
def dot_f32(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot(load_f32x16, 4, matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile_f32(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile(load_f32x16, 4, matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def dot_f16(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot(load_f16x16, 2, matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile_f16(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile(load_f16x16, 2, matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def dot_bf16(matrix, activations, first, last, n, out, out_stride, scratch):
    _dot(load_bf16x16, 2, matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def tile_bf16(matrix, activations, first, last, n, out, out_stride, scratch):
    _tile(load_bf16x16, 2, matrix, activations, first, last, n, out, out_stride, scratch)


@entry
def unpack_f32(matrix, row, out, scratch):
    m = matrix_at(matrix)
    _unpack(load_f32x16, 4, m.data + row * m.row_bytes, m.cols, out, scratch)


@entry
def unpack_f16(matrix, row, out, scratch):
    m = matrix_at(matrix)
    _unpack(load_f16x16, 2, m.data + row * m.row_bytes, m.cols, out, scratch)


@entry
def unpack_bf16(matrix, row, out, scratch):
    m = matrix_at(matrix)
    _unpack(load_bf16x16, 2, m.data + row * m.row_bytes, m.cols, out, scratch)


@entry
def widen_f16(matrix, first, last, out, out_stride, scratch):
    _widen(load_f16x16, 2, matrix, first, last, out, out_stride, scratch)


@entry
def widen_bf16(matrix, first, last, out, out_stride, scratch):
    _widen(load_bf16x16, 2, matrix, first, last, out, out_stride, scratch)
