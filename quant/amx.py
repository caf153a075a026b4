"""Many tokens on AMX tiles: rows are widened to bfloat16 as they stream by, for the whole batch.

    out[t, r] = sum over k of bfloat16(w[r, k]) * bfloat16(x[t, k])         summed in float32

The weights, their scales folded in, are the left operand, so that nothing is transposed for each
weight: 16 rows x 32 columns a tile, as they lie. The activations are the right one, laid out once
for all matrices (ACTIVATIONS.tiles). 2 x 2 tiles make 32 rows x 32 tokens at a time.

Rows are taken by ROWS, columns by COLUMNS: the widened weights (0.5 MB) and the activations of 32
tokens (0.1 MB) then stay in the second-level cache. Sums of COLUMNS are added in float32.
"""

import numpy as np

from .jit import entry, inlined, kernel
from .kernels import AMX_SCRATCH_BYTES, BLOCK, MATRIX
from .memory import copy_bytes
from .records import activations_at, call_entry, matrix_at
from .simd import tiles
from .simd.bfloat import narrow_to_bf16
from .simd.tiles import (
    configure_tiles,
    load_tile,
    multiply_tiles,
    release_tiles,
    store_tile,
    zero_tile,
)
from .simd.vector import load_f32, load_f32x16, splat_f32x16, store, turn_16x16

ROWS = 128
COLUMNS = 2048  # a multiple of every block size
SIDE = 32  # rows, and tokens, of two tiles
TOKENS = 16  # of a tile
STRIDE = COLUMNS * 2 + 64  # of widened rows: 16 of them must not meet in one cache set
TILE = tiles.TILE
BELOW = 16 * STRIDE  # from a tile of weights to the one below

# scratch, aligned to cache lines
_SUMS = tiles.STATE  # four tiles of float32
_PART = _SUMS + 4 * TILE  # a matrix record
_ROWS = _PART + -(-MATRIX.itemsize // 64) * 64  # ROWS widened rows
_SPARE = _ROWS + ROWS * STRIDE  # for widening: one row as float32, and what `unpack` needs
SPARE_BYTES = COLUMNS * 4 + 64 + 4096
assert 64 + _SPARE + SPARE_BYTES <= AMX_SCRATCH_BYTES
RECORD_BYTES = MATRIX.itemsize


# The activations. A token is written as a row of each of its tiles, so that threads with different
# tokens do not write to the same cache lines; once sixteen are there, their tiles are turned.


@inlined
def _tile_of(x, t, block):
    """The tile of token t and a block of 32 columns."""
    two = t // SIDE * (x.padded // BLOCK) + block
    return x.tiles + (2 * two + t % SIDE // TOKENS) * TILE


@kernel
def narrow_columns(x, t, first, last):
    """Row t to its row of the tiles, in the blocks that columns first..last touch."""
    row = t % TOKENS * 64
    for b in range(first // BLOCK, -(-last // BLOCK)):
        at = x.values + (t * x.padded + b * BLOCK) * 4
        store(_tile_of(x, t, b) + row, narrow_to_bf16(load_f32x16(at), load_f32x16(at + 64)))


@kernel
def turn_columns(x, t, first, last):
    """The tiles that narrow_columns filled for the sixteen tokens from t on: to pairs x tokens."""
    for b in range(first // BLOCK, -(-last // BLOCK)):
        turn_16x16(_tile_of(x, t, b))


@entry
def widen_unpacked(matrix, first, last, out, out_stride, scratch):
    """`widen` of any format, by its `unpack`; at most COLUMNS columns."""
    m = matrix_at(matrix)
    spare = scratch + COLUMNS * 4 + 64
    for row in range(first, last):
        call_entry(m.unpack, (matrix, row, scratch, spare))
        store(scratch + -(-m.cols // 16) * 64, splat_f32x16(np.float32(0)))
        to = out + (row - first) * out_stride
        for i in range(0, m.cols, BLOCK):
            at = scratch + i * 4
            store(to + i * 2, narrow_to_bf16(load_f32x16(at), load_f32x16(at + 64)))


@kernel
def _multiply_two_by_two(state, w, x, steps, sums):
    """32 rows x 32 tokens of `steps` times 32 columns, to four tiles of (row, token) float32."""
    zero_tile(state, 0)
    zero_tile(state, 1)
    zero_tile(state, 2)
    zero_tile(state, 3)
    for _ in range(steps):
        load_tile(state, 4, w, STRIDE)
        load_tile(state, 6, x, 64)
        multiply_tiles(state, 0, 4, 6)
        load_tile(state, 7, x + TILE, 64)
        multiply_tiles(state, 1, 4, 7)
        load_tile(state, 5, w + BELOW, STRIDE)
        multiply_tiles(state, 2, 5, 6)
        multiply_tiles(state, 3, 5, 7)
        w += 2 * BLOCK
        x += 2 * TILE
    store_tile(state, 0, sums, 64)
    store_tile(state, 1, sums + TILE, 64)
    store_tile(state, 2, sums + 2 * TILE, 64)
    store_tile(state, 3, sums + 3 * TILE, 64)


@kernel
def _hand_over(sums, rows, tokens, out, out_stride, first):
    """out[t, r] = sums[r, t] of at most 16 rows and tokens; added to it, if not the first."""
    turn_16x16(sums)
    for t in range(tokens):
        at, to = sums + t * 64, out + t * out_stride
        if rows == 16:
            value = load_f32x16(at)
            store(to, value if first else value + load_f32x16(to))
        else:
            for r in range(0, rows * 4, 4):
                one = load_f32(at + r)
                store(to + r, one if first else one + load_f32(to + r))


@kernel
def _multiply_rows(state, steps, tokens, x_stride, rows, n, out, out_stride, first):
    """Widened rows times all tokens, for `steps` times 32 columns."""
    sums = state + _SUMS
    for t in range(0, n, SIDE):
        for r in range(0, rows, SIDE):
            w = state + _ROWS + r * STRIDE
            _multiply_two_by_two(state, w, tokens + t // SIDE * x_stride, steps, sums)
            for tile in range(4):
                row, token = r + tile // 2 * 16, t + tile % 2 * 16
                to = out + token * out_stride + row * 4
                _hand_over(
                    sums + tile * TILE, min(rows - row, 16), min(n - token, 16), to, out_stride,
                    first,
                )  # fmt: skip


@entry
def product(matrix, activations, first, last, n, out, out_stride, scratch):
    """ProductKernels.batch of every format that widens and has none of its own."""
    m, x = matrix_at(matrix), activations_at(activations)
    state = (scratch + 63) // 64 * 64
    configure_tiles(state)
    copy_bytes(state + _PART, matrix, RECORD_BYTES)
    part = matrix_at(state + _PART)  # some columns of a matrix are a matrix
    x_stride = x.padded // BLOCK * 2 * TILE
    for start in range(first, last, ROWS):
        rows = min(ROWS, last - start)
        for column in range(0, m.cols, COLUMNS):
            part.cols = min(COLUMNS, m.cols - column)
            part.data = m.data + m.row_bytes * column // m.cols
            to = state + _ROWS
            call_entry(m.widen, (state + _PART, start, start + rows, to, STRIDE, state + _SPARE))
            _multiply_rows(
                state, -(-part.cols // BLOCK), x.tiles + column // BLOCK * 2 * TILE,
                x_stride, rows, n, out + (start - first) * 4, out_stride, column == 0,
            )  # fmt: skip
    release_tiles()
