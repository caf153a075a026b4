"""Q2_K: 2-bit weights, 256 to a super-block of 16 sub-blocks, a scale and a minimum for each.

A super-block is 84 bytes:
    scales 16 bytes  uint8    of each 16 weights: scale s in the low nibble, minimum m in the high
    qs     64 bytes  uint8    codes
    d       2 bytes  float16  scale of the scales
    dmin    2 bytes  float16  scale of the minimums
    w[j] = d * s[j / 16] * code[j] - dmin * m[j / 16]

Each half of 128 weights has 32 bytes of qs: bits 2 b and 2 b + 1 of byte i are weight 32 b + i.

A tensor (rows, cols) is (rows, cols / 256 * 84) uint8; cols must divide by 256. 2.625 bits a
weight. The layout is GGML's.
"""

import numpy as np
import numpy.typing as npt

from .format import Blocks, Format, Values
from .grid import F32, Codes, Layout, Scales, f16_bytes


def two_bits(qs: Blocks) -> npt.NDArray[np.uint8]:
    """(n, 64) uint8 -> (n, 16, 16) codes 0..3."""
    pairs = qs.reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    codes: npt.NDArray[np.uint8] = (pairs & np.uint8(3)).reshape(-1, 16, 16)
    return codes


def join_two_bits(codes: Codes) -> Blocks:
    """(n, 256) codes 0..3 -> (n, 64) uint8."""
    moved = codes.reshape(-1, 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    joined: Blocks = np.bitwise_or.reduce(moved, axis=2).reshape(-1, 64)
    return joined


def scales_and_minimums(blocks: Blocks) -> tuple[F32, F32]:
    """(n, 84) uint8 -> d * s and dmin * m, (n, 16) each."""
    pair = np.ascontiguousarray(blocks[:, 80:]).view(np.float16).astype(np.float32)
    scale = pair[:, :1] * (blocks[:, :16] & np.uint8(15)).astype(np.float32)
    minimum = pair[:, 1:] * (blocks[:, :16] >> np.uint8(4)).astype(np.float32)
    return scale, minimum


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 84) uint8 -> (n, 256) float32."""
    scale, minimum = scales_and_minimums(blocks)
    codes = two_bits(blocks[:, 16:80]).astype(np.float32)
    values: Values = scale[:, :, None] * codes - minimum[:, :, None]
    return values.reshape(-1, 256)


def _write_scales(blocks: Blocks, scales: Scales) -> None:
    blocks[:, :16] = scales.s.astype(np.uint8) | scales.m.astype(np.uint8) << np.uint8(4)
    blocks[:, 80:82], blocks[:, 82:] = f16_bytes(scales.d), f16_bytes(scales.dmin)


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    blocks[:, 16:80] = join_two_bits(codes)


LAYOUT = Layout(0, 3, scales_and_minimums, _write_codes, _write_scales)
Q2_K = Format("Q2_K", 10, 256, 84, None, dequantize_blocks, LAYOUT)
