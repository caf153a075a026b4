"""What a format computes on its packed bytes, and the records that its kernels are given.

Every kernel is an entry: it takes int64 sizes and addresses, so that a step can call it through the
address that stands in the matrix record, and only the formats of the model at hand are compiled.

`dot` and `tile` of a format give the same bits for the same row and token: they differ in speed,
never in result. Sums run in one fixed order, whatever the batch, the threads or the CPU tier (of
those with fused multiply-add):

    quantized   each block's integer dot product, exact; times (weight scale * activation scale);
                summed by block number modulo 8, then 8 -> 4 -> 2 -> 1 by halves; a format with
                minimums adds, right behind each of these terms, minimum * (activation scale *
                sum of the activation's codes), the sum exact; each addition is a fused one
    dense       float32 products summed by column modulo 16, then by halves

`batch`, for MANY tokens and more, is `tile` too, but on the `amx` tier: there weights and
activations are rounded to bfloat16 (F32 weights excepted), and products are summed in float32 in
the order of the columns. A product then is within 0.3 % rms of float32, where int8 activations
keep it within 1 %; the logits of a prompt agree with those of its tokens one by one within 4 % rms.
How batches of MANY and more are cut and shared among threads still changes no bit.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .entry import Entry
from .simd.cpu import current_tier

CACHE_LINE = 64
BLOCK = 32  # activations that share a scale
PAD = 256  # columns of activations are padded with zeros to a multiple of this
MANY = 16  # tokens from which on a batch is multiplied by `batch`
BFLOAT = current_tier().tiles  # whether `batch` reads bfloat16 pairs, and neither values nor codes

ACTIVATIONS = np.dtype(
    [
        ("values", np.int64),  # address of (n, padded) float32
        ("codes", np.int64),  # address of (n, padded) int8: round(values / scale), -127..127
        ("scales", np.int64),  # address of (n, padded / 32) float32
        ("sums", np.int64),  # address of (n, padded / 32) int32: sum of the codes of a block
        ("pairs", np.int64),  # the same codes in the order that activations.py tells
        ("totals", np.int64),  # address of (n, padded / 32) float32: scale * sum
        ("half_sums", np.int64),  # address of (n, padded / 16) int16: the sums of half a block
        # address of (n / 32, padded / 32, 2, 16, 16, 2) bfloat16 where BFLOAT: for 32 tokens and 32
        # columns two tiles of 16 pairs of columns x 16 tokens; at a multiple of 64
        ("tiles", np.int64),
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
        ("batch", np.int64),
        ("unpack", np.int64),
        ("widen", np.int64),  # 0 where `batch` does not call it
        ("quantized", np.int64),  # 1: the kernels read codes and scales; 0: they read values
    ]
)


@dataclass(frozen=True)
class ProductKernels:
    """The entries of a format.

    dot, tile, batch: (matrix, activations, first, last, n, out, out_stride, scratch)
        out[t, r - first] = matrix[r] . activations[t] for rows first..last and tokens 0..n,
        float32; out_stride in bytes. `dot` suits few tokens: it streams the rows; `tile` suits
        many: it unpacks 16 rows at a time into `scratch` and uses them for all tokens; `batch`
        suits MANY and more. None: AMX's product where the tier has it, else `tile`
    unpack: (matrix, row, out, scratch)
        the row as float32, and zeros up to the next multiple of 16 columns
    widen: (matrix, first, last, out, out_stride, scratch)
        the rows as bfloat16, and zeros up to the next multiple of 32 columns. None: by `unpack`
    pack: (values, n_blocks, out)
        float32 to packed blocks, the same bytes as Format.quantize_blocks; None where numpy is
        quick
    scratch_bytes: what the products need of scratch, for a number of columns
    """

    dot: Entry
    tile: Entry
    unpack: Entry
    pack: Entry | None
    quantized: bool
    widen: Entry | None = None
    batch: Entry | None = None

    @property
    def entries(self) -> dict[str, Entry]:
        """What stands in a matrix record: the fields of MATRIX that are addresses of kernels."""
        found = {"dot": self.dot, "tile": self.tile, "unpack": self.unpack}
        if self.batch is not None or not BFLOAT:
            return found | {"batch": self.batch or self.tile}
        return found | {"batch": AMX_PRODUCT, "widen": self.widen or AMX_WIDEN}

    def scratch_bytes(self, cols: int) -> int:
        padded = -(-cols // PAD) * PAD
        if self.quantized:
            scales = padded // BLOCK * 9  # two sub-scales and minimums, and an eighth of their own
            needed = TILE_ROWS * (padded + scales) + 8 * TILE_ROWS * 2 * TILE_TOKENS * 4
        else:
            needed = 8 * padded * 4 + 256  # eight rows as float32, and the end of one
        return max(needed, AMX_SCRATCH_BYTES) if BFLOAT else needed


TILE_ROWS = 16
TILE_TOKENS = 4

AMX_PRODUCT = Entry(f"{__package__}.amx", "product")
AMX_WIDEN = Entry(f"{__package__}.amx", "widen_unpacked")
AMX_SCRATCH_BYTES = 576 << 10  # what amx.py lays out there, rounded up


def new_activations(rows: int, cols: int) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """A record for `rows` rows, and the zeroed arrays whose addresses stand in it: keep them."""
    padded = -(-cols // PAD) * PAD
    blocks = padded // BLOCK
    arrays: dict[str, NDArray[Any]] = {
        "values": _cache_lines((rows, padded), np.float32),
        "codes": _cache_lines((rows, padded), np.int8),
        "pairs": _cache_lines((rows, padded), np.int8),
        "scales": _cache_lines((rows, blocks), np.float32),
        "sums": _cache_lines((rows, blocks), np.int32),
        "totals": _cache_lines((rows, blocks), np.float32),
        "half_sums": _cache_lines((rows, blocks, 2), np.int16),
    }
    if BFLOAT:
        arrays["tiles"] = _cache_lines((-(-rows // 32), blocks, 2, 16, 16, 2), np.uint16)
    record = np.zeros((), ACTIVATIONS)
    record["padded"] = padded
    for name, array in arrays.items():
        record[name] = array.ctypes.data
    return record, arrays


def _cache_lines(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeros that begin with a cache line, so that few vectors lie in two."""
    n = math.prod(shape) * np.dtype(dtype).itemsize
    zeros = np.zeros(n + CACHE_LINE, np.uint8)
    start = -zeros.ctypes.data % CACHE_LINE
    return zeros[start : start + n].view(dtype).reshape(shape)
