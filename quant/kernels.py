"""What a format computes on its packed bytes, and the records that its kernels are given.

Every kernel is an entry: it takes int64 sizes and addresses, so that a step can call it through the
address that stands in the matrix record, and only the formats of the model at hand are compiled.

All kernels of a format give the same bits for the same row and token: `dot` and `tile` differ in
speed, never in result. Sums run in one fixed order, whatever the batch, the threads or the CPU tier
(of those with fused multiply-add):

    quantized   each block's integer dot product, exact; times (weight scale * activation scale);
                summed by block number modulo 8, then 8 -> 4 -> 2 -> 1 by halves; a format with
                minimums adds, right behind each of these terms, minimum * (activation scale *
                sum of the activation's codes), the sum exact; each addition is a fused one
    dense       float32 products summed by column modulo 16, then by halves
"""

from dataclasses import dataclass

import numpy as np

from .jit import Entry

BLOCK = 32  # activations that share a scale
PAD = 256  # columns of activations are padded with zeros to a multiple of this

ACTIVATIONS = np.dtype(
    [
        ("values", np.int64),  # address of (n, padded) float32
        ("codes", np.int64),  # address of (n, padded) int8: round(values / scale), -127..127
        ("scales", np.int64),  # address of (n, padded / 32) float32
        ("sums", np.int64),  # address of (n, padded / 32) int32: sum of the codes of a block
        ("pairs", np.int64),  # the same codes in the order that activations.py tells
        ("half_sums", np.int64),  # address of (n, padded / 16) int16: the same of half a block
        ("padded", np.int64),  # columns, a multiple of PAD
    ]
)

MATRIX = np.dtype(
    [
        ("data", np.int64),  # address of (rows, row_bytes) packed bytes, in the mapped file
        ("rows", np.int64),
        ("cols", np.int64),
        ("row_bytes", np.int64),
        ("dot", np.int64),  # addresses of the format's kernels
        ("tile", np.int64),
        ("unpack", np.int64),
        ("quantized", np.int64),  # 1: the kernels read codes and scales; 0: they read values
    ]
)


@dataclass(frozen=True)
class ProductKernels:
    """The entries of a format.

    dot, tile: (matrix, activations, first, last, n, out, out_stride, scratch)
        out[t, r - first] = matrix[r] . activations[t] for rows first..last and tokens 0..n,
        float32; out_stride in bytes. `dot` suits few tokens: it streams the rows; `tile` suits
        many: it unpacks 16 rows at a time into `scratch` and uses them for all tokens.
    unpack: (matrix, row, out, scratch)
        the row as float32, and zeros up to the next multiple of 16 columns
    pack: (values, n_blocks, out)
        float32 to packed blocks, the same bytes as Format.quantize_blocks; None where numpy is
        quick
    scratch_bytes: what `tile` and `dot` need of scratch, for a number of columns
    """

    dot: Entry
    tile: Entry
    unpack: Entry
    pack: Entry | None
    quantized: bool

    def scratch_bytes(self, cols: int) -> int:
        padded = -(-cols // PAD) * PAD
        if self.quantized:
            scales = padded // BLOCK * 9  # two sub-scales and minimums, and an eighth of their own
            return TILE_ROWS * (padded + scales) + 8 * TILE_ROWS * TILE_TOKENS * 4
        return 8 * padded * 4 + 256  # eight rows as float32, and the end of one


TILE_ROWS = 16
TILE_TOKENS = 4
