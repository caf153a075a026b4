"""IQ4_NL: 4-bit codes of 16 uneven values, 32 to a block, one scale a block.

A block is 18 bytes:
    d   2 bytes   float16   scale
    qs 16 bytes   uint8     code j in the low nibble, code j + 16 in the high, j = 0..15
    w[j] = d * VALUES[code[j]]

The values stand close where weights are many: near zero. A tensor (rows, cols) is (rows, cols / 32
* 18) uint8; cols must divide by 32. 4.5 bits a weight. Layout and values are GGML's.
"""

import numpy as np

from .format import Blocks, Format, Values
from .grid import Codes, Layout
from .q4_0 import join_nibbles, read_scale, write_scale

VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 18) uint8 -> (n, 32) float32."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    codes = np.concatenate([blocks[:, 2:] & np.uint8(15), blocks[:, 2:] >> np.uint8(4)], axis=1)
    values: Values = d * np.array(VALUES, np.float32)[codes]
    return values


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    blocks[:, 2:] = join_nibbles(codes)


LAYOUT = Layout(0, 15, read_scale, _write_codes, write_scale, VALUES)
IQ4_NL = Format("IQ4_NL", 20, 32, 18, None, dequantize_blocks, LAYOUT)
