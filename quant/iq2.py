"""IQ2_XXS, IQ2_XS and IQ2_S: 8 weights a code, from books of 256, 512 and 1024 entries.

Super-blocks of 256 weights, d a float16, w = d * (1/2 + sub-scale) / 4 * sign * entry[code]. The
sub-scales have four bits, even ones in the low nibble where two share a byte.

IQ2_XXS, 66 bytes, 2.0625 bits a weight:
    d       2 bytes
    qs     64 bytes   for each 32 weights: 4 uint8, the codes; then an uint32, four times 7 signs
                      from the lowest bit up, and the sub-scale in the highest four

IQ2_XS, 74 bytes, 2.3125 bits a weight:
    d       2 bytes
    qs     64 bytes   32 uint16: the code in the low 9 bits, 7 signs above
    scales  8 bytes   the sub-scale of each 16 weights

IQ2_S, 82 bytes, 2.5625 bits a weight:
    d       2 bytes
    qs     32 bytes   low 8 bits of the codes
    signs  32 bytes   of 8 weights each
    qh      8 bytes   high 2 bits of the codes, four a byte, the first lowest
    scales  8 bytes   the sub-scale of each 16 weights

A tensor (rows, cols) is (rows, cols / 256 * bytes) uint8; cols must divide by 256. Of seven signs
see codebooks.py. The layouts are GGML's.
"""

import numpy as np
import numpy.typing as npt

from .codebooks import EVEN_SIGNS, codebook, signs_of
from .format import Blocks, Format, Values

_SEVENS = np.array([0, 7, 14, 21], np.uint32)


def _float16(data: Blocks) -> Values:
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def _nibbles(data: Blocks) -> Values:
    """(n, bytes) -> (n, 2 * bytes) float32, the low nibble first."""
    both = data[:, :, None] >> np.array([0, 4], np.uint8) & np.uint8(15)
    return both.reshape(len(data), -1).astype(np.float32)


def _weights(d: Values, sub: Values, entries: npt.NDArray[np.int8], signs: Values) -> Values:
    """d (n, 1), sub-scales (n, m), entries (n, 32, 8), signs (n, 32, 8) -> (n, 256)."""
    scales = d * (np.float32(0.5) + sub) * np.float32(0.25)
    scales = np.repeat(scales, 32 // sub.shape[1], axis=1)
    values: Values = scales[:, :, None] * entries * signs
    return values.reshape(-1, 256)


def _dequantize_xxs(blocks: Blocks) -> Values:
    """(n, 66) uint8 -> (n, 256) float32."""
    qs = np.ascontiguousarray(blocks[:, 2:]).reshape(-1, 8, 8)
    words = np.ascontiguousarray(qs[:, :, 4:]).view(np.uint32)
    entries = codebook("IQ2_XXS")[qs[:, :, :4]].reshape(-1, 32, 8)
    signs = signs_of(EVEN_SIGNS[words >> _SEVENS & np.uint32(127)]).reshape(-1, 32, 8)
    sub = (words[:, :, 0] >> np.uint32(28)).astype(np.float32)
    return _weights(_float16(blocks[:, :2]), sub, entries, signs)


def _dequantize_xs(blocks: Blocks) -> Values:
    """(n, 74) uint8 -> (n, 256) float32."""
    qs = np.ascontiguousarray(blocks[:, 2:66]).view(np.uint16)
    entries = codebook("IQ2_XS")[qs & np.uint16(511)]
    signs = signs_of(EVEN_SIGNS[qs >> np.uint16(9)])
    return _weights(_float16(blocks[:, :2]), _nibbles(blocks[:, 66:]), entries, signs)


def _dequantize_s(blocks: Blocks) -> Values:
    """(n, 82) uint8 -> (n, 256) float32."""
    qh = blocks[:, 66:74, None] >> np.array([0, 2, 4, 6], np.uint8) & np.uint8(3)
    codes = blocks[:, 2:34] | qh.reshape(-1, 32).astype(np.uint16) << np.uint16(8)
    signs = signs_of(blocks[:, 34:66])
    entries = codebook("IQ2_S")[codes]
    return _weights(_float16(blocks[:, :2]), _nibbles(blocks[:, 74:]), entries, signs)


IQ2_XXS = Format("IQ2_XXS", 16, 256, 66, None, _dequantize_xxs)
IQ2_XS = Format("IQ2_XS", 17, 256, 74, None, _dequantize_xs)
IQ2_S = Format("IQ2_S", 22, 256, 82, None, _dequantize_s)
