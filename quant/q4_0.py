"""Q4_0: 4-bit weights, 32 to a block, one scale a block.

A block is 18 bytes:
    d   2 bytes   float16   scale
    qs 16 bytes   uint8     weight j in the low nibble, weight j + 16 in the high, j = 0..15
    w[j] = d * (nibble[j] - 8)

A tensor (rows, cols) is (rows, cols / 32 * 18) uint8; cols must divide by 32. 4.5 bits a weight.
"""

import numpy as np

from .format import Blocks, Format, Values


def quantize_blocks(x: Values) -> Blocks:
    """(n, 32) float32 -> (n, 18) uint8."""
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    # -8 not 7: the largest magnitude, whatever its sign, gets the code that has no positive twin.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        d = peak / np.float32(-8)
        inverse = np.where(d == 0, np.float32(0), 1 / d)
        codes = np.trunc(x * inverse + np.float32(8.5)).astype(np.uint8).clip(0, 15)
        scales = d.astype(np.float16)
    nibbles = codes[:, :16] | (codes[:, 16:] << np.uint8(4))
    return np.concatenate([scales.view(np.uint8), nibbles], axis=1)


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 18) uint8 -> (n, 32) float32."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & np.uint8(15), blocks[:, 2:] >> np.uint8(4)], axis=1)
    return (nibbles.astype(np.float32) - np.float32(8)) * d


Q4_0 = Format("Q4_0", 2, 32, 18, quantize_blocks, dequantize_blocks, "q4_0_kernels")
