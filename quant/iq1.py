"""IQ1_S and IQ1_M: 8 weights a code, from a book of 2048 entries of -1, 0 and 1.

Super-blocks of 256 weights, d a float16, sub-scales of three bits;
w = d * (1 + 2 * sub-scale) * (entry[code] + shift), shift 1/8 or -1/8.

IQ1_S, 50 bytes, 1.5625 bits a weight:
    d       2 bytes
    qs     32 bytes   low 8 bits of the codes
    qh     16 bytes   for each 32 weights an uint16: four times the high 3 bits of a code, from the
                      lowest bit up; then their sub-scale; then 1 where their shift is -1/8

IQ1_M, 56 bytes, 1.75 bits a weight:
    qs     32 bytes   low 8 bits of the codes
    qh     16 bytes   a nibble a code, the first low: its high 3 bits; then 1 where its shift is
                      -1/8
    scales  8 bytes   4 uint16: four times the sub-scale of 16 weights from the lowest bit up, and
                      in the highest four bits a part of d, the lowest part in the first

A tensor (rows, cols) is (rows, cols / 256 * bytes) uint8; cols must divide by 256. The layouts are
GGML's.
"""

import numpy as np

from .codebooks import codebook
from .format import Blocks, Format, Values

_SHIFT = np.float32(0.125)
_THREES = np.array([0, 3, 6, 9], np.uint16)


def _dequantize_s(blocks: Blocks) -> Values:
    """(n, 50) uint8 -> (n, 256) float32."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    qh = np.ascontiguousarray(blocks[:, 34:]).view(np.uint16)
    scales = d * (2 * (qh >> np.uint16(12) & np.uint16(7)) + 1).astype(np.float32)
    shifts = np.where(qh >> np.uint16(15), -_SHIFT, _SHIFT)
    high = (qh[:, :, None] >> _THREES & np.uint16(7)).reshape(-1, 32)
    entries = codebook("IQ1_S")[blocks[:, 2:34] | high << np.uint16(8)].reshape(-1, 8, 32)
    values: Values = scales[:, :, None] * (entries + shifts[:, :, None])
    return values.reshape(-1, 256)


def _dequantize_m(blocks: Blocks) -> Values:
    """(n, 56) uint8 -> (n, 256) float32."""
    words = np.ascontiguousarray(blocks[:, 48:]).view(np.uint16)
    parts = (words >> np.uint16(12)) << np.array([0, 4, 8, 12], np.uint16)
    d = np.bitwise_or.reduce(parts, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    sub = (words[:, :, None] >> _THREES & np.uint16(7)).reshape(-1, 16)
    scales = np.repeat(d * (2 * sub + 1).astype(np.float32), 2, axis=1)
    qh = (blocks[:, 32:48, None] >> np.array([0, 4], np.uint8) & np.uint8(15)).reshape(-1, 32)
    shifts = np.where(qh >> np.uint8(3), -_SHIFT, _SHIFT)
    high = (qh & np.uint8(7)).astype(np.uint16)
    entries = codebook("IQ1_M")[blocks[:, :32] | high << np.uint16(8)]
    values: Values = scales[:, :, None] * (entries + shifts[:, :, None])
    return values.reshape(-1, 256)


IQ1_S = Format("IQ1_S", 19, 256, 50, None, _dequantize_s)
IQ1_M = Format("IQ1_M", 29, 256, 56, None, _dequantize_m)
