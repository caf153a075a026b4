"""IQ4_XS: the codes of IQ4_NL, 256 to a super-block of 8 blocks, a scale for each in two parts.

A super-block is 136 bytes:
    d          2 bytes   float16   scale
    scales_h   2 bytes   uint16    high 2 bits of the sub-scales, block 0 lowest
    scales_l   4 bytes   uint8     their low 4 bits, two a byte, the even block in the low nibble
    qs       128 bytes   uint8     16 bytes a block: code j in the low nibble, j + 16 in the high
    w[j] = d * (sub-scale[j / 32] - 32) * VALUES[code[j]]

A tensor (rows, cols) is (rows, cols / 256 * 136) uint8; cols must divide by 256. 4.25 bits a
weight. The layout is GGML's.
"""

import numpy as np

from .format import Blocks, Format, Values
from .grid import F32, Codes, Layout, Scales, f16_bytes
from .iq4_nl import VALUES

NIBBLES = np.array([0, 4], np.uint8)


def _scales(blocks: Blocks) -> tuple[F32, None]:
    d, high = np.split(np.ascontiguousarray(blocks[:, :4]).view(np.uint16), 2, axis=1)
    low = (blocks[:, 4:8, None] >> NIBBLES & np.uint8(15)).reshape(-1, 8)
    high = (high >> np.arange(0, 16, 2, dtype=np.uint16) & np.uint16(3)).astype(np.uint8)
    sub = (low | high << np.uint8(4)).astype(np.float32) - np.float32(32)
    return d.copy().view(np.float16).astype(np.float32) * sub, None


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 136) uint8 -> (n, 256) float32."""
    qs = blocks[:, 8:].reshape(-1, 8, 1, 16)
    codes = (qs >> NIBBLES[:, None] & np.uint8(15)).reshape(-1, 8, 32)
    scale, _ = _scales(blocks)
    values: Values = scale[:, :, None] * np.array(VALUES, np.float32)[codes]
    return values.reshape(-1, 256)


def _write_scales(blocks: Blocks, scales: Scales) -> None:
    s = (scales.s + np.float32(32)).astype(np.uint8)
    high = (s >> np.uint8(4)).astype(np.uint16) << np.arange(0, 16, 2, dtype=np.uint16)
    blocks[:, :2] = f16_bytes(scales.d)
    blocks[:, 2:4] = np.bitwise_or.reduce(high, axis=1, keepdims=True).view(np.uint8)
    blocks[:, 4:8] = s[:, ::2] & np.uint8(15) | s[:, 1::2] << np.uint8(4)


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    pairs = codes.reshape(-1, 8, 2, 16)
    blocks[:, 8:] = (pairs[:, :, 0] | pairs[:, :, 1] << np.uint8(4)).reshape(-1, 128)


LAYOUT = Layout(0, 15, _scales, _write_codes, _write_scales, VALUES)
IQ4_XS = Format("IQ4_XS", 23, 256, 136, None, dequantize_blocks, LAYOUT)
