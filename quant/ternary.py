"""TQ1_0 and TQ2_0: weights -1, 0 and 1 times a scale, 256 to a super-block.

TQ1_0, 54 bytes, 1.6875 bits a weight. A byte holds five digits to the base 3, as the fraction
digits / 243 of 256 rounded up: three times it, the whole part of what comes is the first digit, and
so on with the rest.
    qs     48 bytes   of the first 32 digit p is weight 32 * p + j, of the others 160 + 16 * p + j
    qh      4 bytes   four digits each: digit p of byte j is weight 240 + 4 * p + j
    d       2 bytes   float16

TQ2_0, 66 bytes, 2.0625 bits a weight:
    qs     64 bytes   of byte j of either half of 32 bits 2 p and 2 p + 1 are weight 32 * p + j of
                      either half of 128
    d       2 bytes   float16

w = d * (digit - 1). A tensor (rows, cols) is (rows, cols / 256 * bytes) uint8; cols must divide by
256. The layouts are GGML's.
"""

import numpy as np

from .format import Blocks, Format, Values

_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]


def _scale(data: Blocks) -> Values:
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def _dequantize_tq1(blocks: Blocks) -> Values:
    """(n, 54) uint8 -> (n, 256) float32."""
    first, second, last = blocks[:, None, :32], blocks[:, None, 32:48], blocks[:, None, 48:52]
    parts = (first * _POWERS, second * _POWERS, last * _POWERS[:4])  # the whole parts fall off
    rest = np.concatenate([part.reshape(len(blocks), -1) for part in parts], axis=1)
    digits = (rest.astype(np.uint16) * np.uint16(3) >> np.uint16(8)).astype(np.float32)
    values: Values = _scale(blocks[:, 52:]) * (digits - np.float32(1))
    return values


def _dequantize_tq2(blocks: Blocks) -> Values:
    """(n, 66) uint8 -> (n, 256) float32."""
    qs = blocks[:, :64].reshape(-1, 2, 1, 32)
    digits = qs >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    whole = digits.reshape(-1, 256).astype(np.float32) - np.float32(1)
    return _scale(blocks[:, 64:]) * whole


TQ1_0 = Format("TQ1_0", 34, 256, 54, None, _dequantize_tq1)
TQ2_0 = Format("TQ2_0", 35, 256, 66, None, _dequantize_tq2)
