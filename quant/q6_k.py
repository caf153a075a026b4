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
weight. The layout is GGML's; the search for the scales is our own.
"""

import numpy as np
import numpy.typing as npt

from .format import Blocks, Format, Values
from .grid import F32, Codes, Layout

# The search. The weight of largest magnitude, coded as -32, would give the sub-block of the largest
# weight the sub-scale LARGEST: below 127, because it pays to try greater ones. Tried are the
# sub-scales from BELOW under to ABOVE over that of a sub-block's own largest weight.
LARGEST = 112
BELOW, ABOVE = 3, 15


def quantize_blocks(x: Values) -> Blocks:
    """(n, 256) float32 -> (n, 210) uint8: of 19 sub-scales the first with the least squared error.

    Mean squared error of normal weights: 2.7e-4 of their own (a single try: 3.3e-4).
    """
    x = x.reshape(-1, 16, 16)
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=2, keepdims=True), axis=2)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        top = np.take_along_axis(peak, np.abs(peak).argmax(axis=1, keepdims=True), axis=1)
        d16 = (top / np.float32(-32 * LARGEST)).astype(np.float16)
        d = d16.astype(np.float32)
        own = np.rint(peak / (np.float32(-32) * d))
        step = np.where(own < 0, np.float32(-1), np.float32(1))
        least = _sum_by_halves(x * x)  # with all codes zero
        scales, codes = np.zeros_like(own), np.zeros_like(x)
        for more in range(-BELOW, ABOVE + 1):
            s = np.clip(own + np.float32(more) * step, np.float32(-128), np.float32(127))
            q = np.clip(np.rint(x * (1 / (d * s))), np.float32(-32), np.float32(31))
            miss = x - d * s * q
            error = _sum_by_halves(miss * miss)
            better = error < least
            least = np.where(better, error, least)
            scales, codes = np.where(better, s, scales), np.where(better, q, codes)
    packed = _pack_codes(codes.reshape(-1, 2, 4, 32).astype(np.int8) + np.int8(32))
    sub = scales.astype(np.int8).view(np.uint8).reshape(-1, 16)
    return np.concatenate([packed, sub, d16.view(np.uint8).reshape(-1, 2)], axis=1)


def _sum_by_halves(x: F32) -> F32:
    """(..., 16) -> (..., 1), in the order in which the kernels add lanes."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = x[..., :half] + x[..., half:]
    return x


def _pack_codes(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """(n, 2, 4, 32) codes 0..63 -> (n, 192), ql and qh."""
    q = codes.view(np.uint8)
    low, high = q & np.uint8(15), q >> np.uint8(4)
    ql = low[:, :, :2] | low[:, :, 2:] << np.uint8(4)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    qh = np.bitwise_or.reduce(high << shifts, axis=2)
    return np.concatenate([ql.reshape(-1, 128), qh.reshape(-1, 64)], axis=1)


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


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    blocks[:, :192] = _pack_codes(codes.reshape(-1, 2, 4, 32).view(np.int8))


LAYOUT = Layout(-32, 31, _scales, _write_codes)
Q6_K = Format("Q6_K", 14, 256, 210, quantize_blocks, dequantize_blocks, "q6_k_kernels", LAYOUT)
