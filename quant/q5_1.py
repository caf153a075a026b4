"""Q5_1: 5-bit weights, 32 to a block, a scale and a minimum for each.

A block is 24 bytes:
    d   2 bytes   float16   scale
    m   2 bytes   float16   minimum
    qh  4 bytes   uint32    high bits of the codes, as in q5_0.py
    qs 16 bytes   uint8     low 4 bits
    w[j] = d * code[j] + m

A tensor (rows, cols) is (rows, cols / 32 * 24) uint8; cols must divide by 32. 6 bits a weight.
"""

import numpy as np

from .format import Blocks, Format, Values
from .grid import Codes, Layout
from .q4_1 import codes_above_minimum, read_scale_and_minimum, write_scale_and_minimum
from .q5_0 import pack_codes, unpack_codes


def quantize_blocks(x: Values) -> Blocks:
    """(n, 32) float32 -> (n, 24) uint8."""
    pair, codes = codes_above_minimum(x, 31)
    return np.concatenate([pair, pack_codes(codes)], axis=1)


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 24) uint8 -> (n, 32) float32."""
    pair = np.ascontiguousarray(blocks[:, :4]).view(np.float16).astype(np.float32)
    return pair[:, :1] * unpack_codes(blocks[:, 4:]).astype(np.float32) + pair[:, 1:]


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    blocks[:, 4:] = pack_codes(codes)


LAYOUT = Layout(0, 31, read_scale_and_minimum, _write_codes, write_scale_and_minimum)
Q5_1 = Format("Q5_1", 7, 32, 24, quantize_blocks, dequantize_blocks, LAYOUT)
