"""Q6_K: 6-bit weights, 256 to a super-block of 16 sub-blocks, a scale for each in two parts.

A super-block is 210 bytes:
    ql    128 bytes  uint8    low 4 bits of the codes
    qh     64 bytes  uint8    high 2 bits of the codes
    scales 16 bytes  int8     sub-scale of each 16 weights, in their order
    d       2 bytes  float16  scale
    w[j] = d * scales[j / 16] * (code[j] - 32)

Each half of 128 weights has 64 bytes of ql and 32 of qh. With i = 0..31 its code
         i  has the low nibble of ql[i]        and bits 0, 1 of qh[i]
    32 + i      the low nibble of ql[32 + i]       bits 2, 3
    64 + i      the high nibble of ql[i]           bits 4, 5
    96 + i      the high nibble of ql[32 + i]      bits 6, 7

A tensor (rows, cols) is (rows, cols / 256 * 210) uint8; cols must divide by 256. 6.5625 bits a
weight. The layout is GGML's.
"""

import numpy as np

from .format import Blocks, Format, Values
from .grid import F32, Codes, Layout, Scales, f16_bytes


def _scales(blocks: Blocks) -> tuple[F32, None]:
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    d = np.ascontiguousarray(blocks[:, 208:]).view(np.float16).astype(np.float32)
    return d * scales, None


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 210) uint8 -> (n, 256) float32."""
    ql = blocks[:, :128].reshape(-1, 2, 2, 32)
    qh = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    low = np.concatenate([ql & np.uint8(15), ql >> np.uint8(4)], axis=2)
    high = qh >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)
    codes = (low | high << np.uint8(4)).astype(np.float32) - np.float32(32)
    scale, _ = _scales(blocks)
    values: Values = scale[:, :, None] * codes.reshape(-1, 16, 16)
    return values.reshape(-1, 256)


def _write_scales(blocks: Blocks, scales: Scales) -> None:
    blocks[:, 192:208] = scales.s.astype(np.int8).view(np.uint8)
    blocks[:, 208:] = f16_bytes(scales.d)


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    q = codes.reshape(-1, 2, 4, 32)
    low, high = q & np.uint8(15), q >> np.uint8(4)
    blocks[:, :128] = (low[:, :, :2] | low[:, :, 2:] << np.uint8(4)).reshape(-1, 128)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    blocks[:, 128:192] = np.bitwise_or.reduce(high << shifts, axis=2).reshape(-1, 64)


LAYOUT = Layout(-32, 31, _scales, _write_codes, _write_scales)
Q6_K = Format("Q6_K", 14, 256, 210, None, dequantize_blocks, LAYOUT)
