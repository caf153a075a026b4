"""MXFP4: floating-point numbers of 4 bits, 32 to a block, a power of two as their scale.

A block is 17 bytes:
    e   1 byte    uint8   exponent
    qs 16 bytes   uint8   code j in the low nibble, code j + 16 in the high, j = 0..15
    w[j] = 2 ** (e - 128) * VALUES[code[j]]

VALUES are twice those of the OCP Microscaling Formats Specification 1.0, so that they are whole. A
tensor (rows, cols) is (rows, cols / 32 * 17) uint8; cols must divide by 32. 4.25 bits a weight.
"""

import numpy as np

from .format import Blocks, Format, Values

VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 17) uint8 -> (n, 32) float32."""
    d = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
    codes = np.concatenate([blocks[:, 1:] & np.uint8(15), blocks[:, 1:] >> np.uint8(4)], axis=1)
    values: Values = d * np.array(VALUES, np.float32)[codes]
    return values


MXFP4 = Format("MXFP4", 39, 32, 17, None, dequantize_blocks)
