"""Q5_K: 5-bit weights, 256 to a super-block of 8 blocks, a scale and a minimum for each.

A super-block is 176 bytes:
    d        2 bytes  float16  scale of the scales
    dmin     2 bytes  float16  scale of the minimums
    scales  12 bytes  uint8    6-bit scale s and minimum m of each block, as in q4_k.py
    qh      32 bytes  uint8    high bits: bit b of qh[i] belongs to weight i of block b
    qs     128 bytes  uint8    low 4 bits of the codes, as in q4_k.py
    w[j] = d * s[j / 32] * code[j] - dmin * m[j / 32]

A tensor (rows, cols) is (rows, cols / 256 * 176) uint8; cols must divide by 256. 5.5 bits a weight.
The layout is GGML's.
"""

import numpy as np

from .format import Blocks, Format, Values
from .grid import Codes, Layout
from .q4_k import join_nibbles, nibbles, scales_and_minimums, write_scales


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 176) uint8 -> (n, 256) float32."""
    scale, minimum = scales_and_minimums(blocks)
    bits = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    codes = nibbles(blocks[:, 48:]) | bits << np.uint8(4)
    values: Values = scale[:, :, None] * codes.astype(np.float32) - minimum[:, :, None]
    return values.reshape(-1, 256)


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    high = (codes >> np.uint8(4)).reshape(-1, 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    blocks[:, 16:48] = np.bitwise_or.reduce(high, axis=1)
    blocks[:, 48:] = join_nibbles(codes & np.uint8(15))


LAYOUT = Layout(0, 31, scales_and_minimums, _write_codes, write_scales)
Q5_K = Format("Q5_K", 13, 256, 176, None, dequantize_blocks, LAYOUT)
