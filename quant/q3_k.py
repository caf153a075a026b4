"""Q3_K: 3-bit weights, 256 to a super-block of 16 sub-blocks, a scale for each in two parts.

A super-block is 110 bytes:
    hmask  32 bytes  uint8    high bits: bit b of hmask[i] belongs to weight 32 b + i
    qs     64 bytes  uint8    low 2 bits of the codes, as in q2_k.py
    scales 12 bytes  uint8    6-bit sub-scale s of each 16 weights, see below
    d       2 bytes  float16  scale
    w[j] = d * (s[j / 16] - 32) * (code[j] - 4)

With i = 0..7, of the 12 bytes scales[i] has the lower four bits of s[i] in its low nibble and those
of s[8 + i] in the high one. With i = 0..3, bits 2 k and 2 k + 1 of scales[8 + i] are the upper two
of s[4 k + i].

A tensor (rows, cols) is (rows, cols / 256 * 110) uint8; cols must divide by 256. 3.4375 bits a
weight. The layout is GGML's.
"""

import numpy as np

from .format import Blocks, Format, Values
from .grid import F32, Codes, Layout, Scales, f16_bytes
from .q2_k import join_two_bits, two_bits


def _sub_scales(packed: Blocks) -> F32:
    """(n, 12) uint8 -> (n, 16) float32, -32..31."""
    low = np.concatenate([packed[:, :8] & np.uint8(15), packed[:, :8] >> np.uint8(4)], axis=1)
    high = packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    whole = (low | high.reshape(-1, 16) << np.uint8(4)).astype(np.float32)
    scales: F32 = whole - np.float32(32)
    return scales


def _scales(blocks: Blocks) -> tuple[F32, None]:
    d = np.ascontiguousarray(blocks[:, 108:]).view(np.float16).astype(np.float32)
    return d * _sub_scales(blocks[:, 96:108]), None


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 110) uint8 -> (n, 256) float32."""
    bits = blocks[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    codes = two_bits(blocks[:, 32:96]) | bits.reshape(-1, 16, 16) << np.uint8(2)
    scale, _ = _scales(blocks)
    values: Values = scale[:, :, None] * (codes.astype(np.float32) - np.float32(4))
    return values.reshape(-1, 256)


def _write_scales(blocks: Blocks, scales: Scales) -> None:
    s = (scales.s + np.float32(32)).astype(np.uint8)
    blocks[:, 96:104] = s[:, :8] & np.uint8(15) | s[:, 8:] << np.uint8(4)
    high = (s >> np.uint8(4)).reshape(-1, 4, 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    blocks[:, 104:108] = np.bitwise_or.reduce(high, axis=1)
    blocks[:, 108:] = f16_bytes(scales.d)


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    high = (codes >> np.uint8(2)).reshape(-1, 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    blocks[:, :32] = np.bitwise_or.reduce(high, axis=1)
    blocks[:, 32:96] = join_two_bits(codes & np.uint8(3))


LAYOUT = Layout(-4, 3, _scales, _write_codes, _write_scales)
Q3_K = Format("Q3_K", 11, 256, 110, None, dequantize_blocks, LAYOUT)
