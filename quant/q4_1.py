"""Q4_1: 4-bit weights, 32 to a block, a scale and a minimum for each.

A block is 20 bytes:
    d   2 bytes   float16   scale
    m   2 bytes   float16   minimum
    qs 16 bytes   uint8     weight j in the low nibble, weight j + 16 in the high, j = 0..15
    w[j] = d * nibble[j] + m

A tensor (rows, cols) is (rows, cols / 32 * 20) uint8; cols must divide by 32. 5 bits a weight.
"""

import numpy as np
import numpy.typing as npt

from .format import Blocks, Format, Values
from .grid import F32, Codes, Layout, Scales, f16_bytes
from .q4_0 import join_nibbles


def codes_above_minimum(
    x: Values, largest: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """(n, 32) float32 -> d and m as (n, 4) bytes, and (n, 32) codes 0..largest."""
    # the first of equals: zeros of both signs compare equal
    m = np.take_along_axis(x, x.argmin(axis=1, keepdims=True), axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        d = (x.max(axis=1, keepdims=True) - m) / np.float32(largest)
        inverse = np.where(d == 0, np.float32(0), 1 / d)
        codes = np.trunc((x - m) * inverse + np.float32(0.5)).astype(np.uint8).clip(0, largest)
        pair = np.concatenate([d, m], axis=1).astype(np.float16)
    return pair.view(np.uint8), codes


def quantize_blocks(x: Values) -> Blocks:
    """(n, 32) float32 -> (n, 20) uint8."""
    pair, codes = codes_above_minimum(x, 15)
    return np.concatenate([pair, join_nibbles(codes)], axis=1)


def read_scale_and_minimum(blocks: Blocks) -> tuple[F32, F32]:
    """(n, type_size) uint8 that begin with d and m -> d and -m, (n, 1) each."""
    pair = np.ascontiguousarray(blocks[:, :4]).view(np.float16).astype(np.float32)
    return pair[:, :1], -pair[:, 1:]


def write_scale_and_minimum(blocks: Blocks, scales: Scales) -> None:
    """Into the first four bytes of blocks, which add what they call the minimum."""
    blocks[:, :2], blocks[:, 2:4] = f16_bytes(scales.d), f16_bytes(-scales.dmin)


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    blocks[:, 4:] = join_nibbles(codes)


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 20) uint8 -> (n, 32) float32."""
    pair = np.ascontiguousarray(blocks[:, :4]).view(np.float16).astype(np.float32)
    nibbles = np.concatenate([blocks[:, 4:] & np.uint8(15), blocks[:, 4:] >> np.uint8(4)], axis=1)
    return pair[:, :1] * nibbles.astype(np.float32) + pair[:, 1:]


LAYOUT = Layout(0, 15, read_scale_and_minimum, _write_codes, write_scale_and_minimum)
Q4_1 = Format("Q4_1", 3, 32, 20, quantize_blocks, dequantize_blocks, LAYOUT)
