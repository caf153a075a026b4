"""Q4_K: 4-bit weights, 256 to a super-block of 8 blocks, a scale and a minimum for each.

A super-block is 144 bytes:
    d        2 bytes  float16  scale of the scales
    dmin     2 bytes  float16  scale of the minimums
    scales  12 bytes  uint8    6-bit scale s and minimum m of each block, see below
    qs     128 bytes  uint8    codes
    w[j] = d * s[j / 32] * code[j] - dmin * m[j / 32]

Bytes 32 p .. 32 p + 31 of qs hold block 2 p in the low nibbles, block 2 p + 1 in the high ones.
With i = 0..3, of the 12 bytes
    scales[i]      has s[i] in bits 0..5, the upper two bits of s[4 + i] in bits 6 and 7
    scales[4 + i]  the same of m
    scales[8 + i]  the lower four bits of s[4 + i] in its low nibble, of m[4 + i] in the high one

A tensor (rows, cols) is (rows, cols / 256 * 144) uint8; cols must divide by 256. 4.5 bits a weight.
The layout is GGML's.
"""

import numpy as np
import numpy.typing as npt

from .format import Blocks, Format, Values
from .grid import F32, Codes, Layout, Scales, f16_bytes


def scales_and_minimums(blocks: Blocks) -> tuple[F32, F32]:
    """(n, 16 or more) uint8, the start of super-blocks -> d * s and dmin * m, (n, 8) each."""
    pair = np.ascontiguousarray(blocks[:, :4]).view(np.float16).astype(np.float32)
    packed = blocks[:, 4:16].reshape(-1, 3, 4)
    first, top = packed[:, :2] & np.uint8(63), packed[:, :2] >> np.uint8(6) << np.uint8(4)
    low = np.stack([packed[:, 2] & np.uint8(15), packed[:, 2] >> np.uint8(4)], axis=1)
    six_bits = np.concatenate([first, low | top], axis=2).astype(np.float32)  # (n, 2, 8)
    scaled = pair[:, :, None] * six_bits
    return scaled[:, 0], scaled[:, 1]


def write_scales(blocks: Blocks, scales: Scales) -> None:
    """Into the first 16 bytes of super-blocks."""
    s, m = scales.s.astype(np.uint8), scales.m.astype(np.uint8)
    blocks[:, :2], blocks[:, 2:4] = f16_bytes(scales.d), f16_bytes(scales.dmin)
    blocks[:, 4:8] = s[:, :4] | s[:, 4:] >> np.uint8(4) << np.uint8(6)
    blocks[:, 8:12] = m[:, :4] | m[:, 4:] >> np.uint8(4) << np.uint8(6)
    blocks[:, 12:16] = s[:, 4:] & np.uint8(15) | m[:, 4:] << np.uint8(4)


def nibbles(qs: Blocks) -> npt.NDArray[np.uint8]:
    """(n, 128) uint8 -> (n, 8, 32) codes 0..15."""
    pairs = qs.reshape(-1, 4, 1, 32)
    codes = np.concatenate([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=2)
    return codes.reshape(-1, 8, 32)


def join_nibbles(codes: Codes) -> Blocks:
    """(n, 256) codes 0..15 -> (n, 128) uint8."""
    pairs = codes.reshape(-1, 4, 2, 32)
    return (pairs[:, :, 0] | pairs[:, :, 1] << np.uint8(4)).reshape(-1, 128)


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 144) uint8 -> (n, 256) float32."""
    scale, minimum = scales_and_minimums(blocks)
    codes = nibbles(blocks[:, 16:]).astype(np.float32)
    values: Values = scale[:, :, None] * codes - minimum[:, :, None]
    return values.reshape(-1, 256)


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    blocks[:, 16:] = join_nibbles(codes)


LAYOUT = Layout(0, 15, scales_and_minimums, _write_codes, write_scales)
Q4_K = Format("Q4_K", 12, 256, 144, None, dequantize_blocks, LAYOUT)
