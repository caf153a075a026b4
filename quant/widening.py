"""Widening for tiles of bfloat16: rows of blocks whose 16 bytes hold the first half of the codes as
low nibbles and the second half as high ones.

The sixteen weights that a block can hold are made first, then looked up, two blocks at a time.
"""

import numpy as np

from .jit import inlined, kernel
from .kernels import BLOCK
from .records import matrix_at
from .simd.bfloat import look_up_32, narrow_to_bf16
from .simd.vector import (
    high_half,
    high_nibbles,
    join,
    load_i8x16,
    low_half,
    low_nibbles,
    prefetch,
    splat_i8x16,
    store,
)

WIDE_BLOCK = 2 * BLOCK  # bytes of a block as bfloat16


@inlined
def _widen_two(block_of, row, near, far, out, ahead):
    """Blocks number near and far of a row. `ahead`: bytes of prefetch."""
    near_codes, near_weights = block_of(row, near)
    far_codes, far_weights = block_of(row, far)
    prefetch(near_codes + ahead)
    weights = narrow_to_bf16(near_weights, far_weights)
    q = join(load_i8x16(near_codes), load_i8x16(far_codes))
    place = join(splat_i8x16(np.int8(0)), splat_i8x16(np.int8(16)))
    first = look_up_32(weights, low_nibbles(q) + place)
    second = look_up_32(weights, high_nibbles(q) + place)
    store(out + near * WIDE_BLOCK, low_half(first))
    store(out + near * WIDE_BLOCK + 32, low_half(second))
    store(out + far * WIDE_BLOCK, high_half(first))
    store(out + far * WIDE_BLOCK + 32, high_half(second))


def widen_of(block_of):
    """`widen` of such blocks.

    block_of(row, block): of a block of the row at an address, the address of its 16 bytes, and
    the weights of the codes 0..15: f32x16.
    """

    @kernel
    def widen_rows(matrix, first, last, out, out_stride):
        m = matrix_at(matrix)
        blocks = m.cols // BLOCK
        for row in range(first, last):
            w, to = m.data + row * m.row_bytes, out + (row - first) * out_stride
            for near in range(0, blocks, 2):
                far = min(near + 1, blocks - 1)  # a last one without a pair is done twice
                _widen_two(block_of, w, near, far, to, 2 * m.row_bytes)

    return widen_rows
