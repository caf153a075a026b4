"""Q4_0: 4-bit weights, 32 to a block, one scale a block.

A block is 18 bytes:
    d   2 bytes   float16   scale
    qs 16 bytes   uint8     weight j in the low nibble, weight j + 16 in the high, j = 0..15
    w[j] = d * (nibble[j] - 8)

A tensor (rows, cols) is (rows, cols / 32 * 18) uint8; cols must divide by 32. 4.5 bits a weight.
"""

import numpy as np

from .format import Blocks, Format, Values
from .grid import F32, Codes, Layout, Scales, f16_bytes


def quantize_blocks(x: Values) -> Blocks:
    """(n, 32) float32 -> (n, 18) uint8."""
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    # -8 not 7: the largest magnitude, whatever its sign, gets the code that has no positive twin.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        d = peak / np.float32(-8)
        inverse = np.where(d == 0, np.float32(0), 1 / d)
        codes = np.trunc(x * inverse + np.float32(8.5)).astype(np.uint8).clip(0, 15)
        scales = d.astype(np.float16)
    return np.concatenate([scales.view(np.uint8), join_nibbles(codes)], axis=1)


def join_nibbles(codes: Codes) -> Blocks:
    """(n, 32) codes 0..15 -> (n, 16) uint8."""
    return codes[:, :16] | codes[:, 16:] << np.uint8(4)


def read_scale(blocks: Blocks) -> tuple[F32, None]:
    """(n, type_size) uint8 that begin with a scale -> (n, 1)."""
    return np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32), None


def write_scale(blocks: Blocks, scales: Scales) -> None:
    """Into the first two bytes of blocks."""
    blocks[:, :2] = f16_bytes(scales.d)


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    blocks[:, 2:] = join_nibbles(codes)


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 18) uint8 -> (n, 32) float32."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & np.uint8(15), blocks[:, 2:] >> np.uint8(4)], axis=1)
    return (nibbles.astype(np.float32) - np.float32(8)) * d


LAYOUT = Layout(-8, 7, read_scale, _write_codes, write_scale)
Q4_0 = Format("Q4_0", 2, 32, 18, quantize_blocks, dequantize_blocks, LAYOUT)
