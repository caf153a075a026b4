"""IQ3_XXS and IQ3_S: 4 weights a code, from books of 256 and 512 entries.

Super-blocks of 256 weights, d a float16, a sub-scale of four bits for each 32.

IQ3_XXS, 98 bytes, 3.0625 bits a weight; w = d * (1/2 + sub-scale) / 2 * sign * entry[code]:
    d       2 bytes
    qs     64 bytes   codes
    signs  32 bytes   for each 32 weights an uint32: four times 7 signs from the lowest bit up, and
                      the sub-scale in the highest four

IQ3_S, 110 bytes, 3.4375 bits a weight; w = d * (1 + 2 * sub-scale) * sign * entry[code]:
    d       2 bytes
    qs     64 bytes   low 8 bits of the codes
    qh      8 bytes   high bit of the codes, eight a byte, the first lowest
    signs  32 bytes   of 8 weights each
    scales  4 bytes   sub-scales, the even one in the low nibble

A tensor (rows, cols) is (rows, cols / 256 * bytes) uint8; cols must divide by 256. Of seven signs
see codebooks.py. The layouts are GGML's.
"""

import numpy as np

from .codebooks import EVEN_SIGNS, codebook, signs_of
from .format import Blocks, Format, Values


def _dequantize_xxs(blocks: Blocks) -> Values:
    """(n, 98) uint8 -> (n, 256) float32."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    words = np.ascontiguousarray(blocks[:, 66:]).view(np.uint32)
    sub = (words >> np.uint32(28)).astype(np.float32)
    scales = d * (np.float32(0.5) + sub) * np.float32(0.5)
    sevens = words[:, :, None] >> np.array([0, 7, 14, 21], np.uint32) & np.uint32(127)
    signs = signs_of(EVEN_SIGNS[sevens]).reshape(-1, 8, 32)
    entries = codebook("IQ3_XXS")[blocks[:, 2:66]].reshape(-1, 8, 32)
    values: Values = scales[:, :, None] * entries * signs
    return values.reshape(-1, 256)


def _dequantize_s(blocks: Blocks) -> Values:
    """(n, 110) uint8 -> (n, 256) float32."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    sub = blocks[:, 106:, None] >> np.array([0, 4], np.uint8) & np.uint8(15)
    scales = d * (np.float32(1) + np.float32(2) * sub.reshape(-1, 8))
    high = np.unpackbits(blocks[:, 66:74], axis=1, bitorder="little").astype(np.uint16)
    entries = codebook("IQ3_S")[blocks[:, 2:66] | high << np.uint16(8)].reshape(-1, 8, 32)
    signs = signs_of(blocks[:, 74:106]).reshape(-1, 8, 32)
    values: Values = scales[:, :, None] * entries * signs
    return values.reshape(-1, 256)


IQ3_XXS = Format("IQ3_XXS", 18, 256, 98, None, _dequantize_xxs)
IQ3_S = Format("IQ3_S", 21, 256, 110, None, _dequantize_s)
