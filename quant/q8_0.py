"""Q8_0: 8-bit weights, 32 to a block, one scale a block.

A block is 34 bytes:
    d   2 bytes   float16   scale
    qs 32 bytes   int8      weight j, j = 0..31
    w[j] = d * qs[j]

A tensor (rows, cols) is (rows, cols / 32 * 34) uint8; cols must divide by 32. 8.5 bits a weight.
"""

import numpy as np

from .format import Blocks, Format, Values
from .grid import Codes, Layout
from .q4_0 import read_scale


def _round_half_away(x: Values) -> Values:
    magnitude = np.abs(x)
    whole = np.floor(magnitude)
    rounded: Values = np.sign(x) * (whole + np.floor(2 * (magnitude - whole)))
    return rounded


def quantize_blocks(x: Values) -> Blocks:
    """(n, 32) float32 -> (n, 34) uint8: the largest magnitude gets the code 127 or -127."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
        inverse = np.where(d == 0, np.float32(0), 1 / d)
        codes = _round_half_away(x * inverse).astype(np.int8)
        scales = d.astype(np.float16)
    return np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], axis=1)


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 34) uint8 -> (n, 32) float32."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32) * d


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    blocks[:, 2:] = codes ^ np.uint8(128)  # int8, counted from -128


LAYOUT = Layout(-128, 127, read_scale, _write_codes)
Q8_0 = Format("Q8_0", 8, 32, 34, quantize_blocks, dequantize_blocks, LAYOUT)
