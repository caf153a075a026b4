"""Q5_0: 5-bit weights, 32 to a block, one scale a block.

A block is 22 bytes:
    d   2 bytes   float16   scale
    qh  4 bytes   uint32    high bit of the code of weight j in bit j
    qs 16 bytes   uint8     low 4 bits: weight j in the low nibble, j + 16 in the high, j = 0..15
    w[j] = d * (code[j] - 16)

A tensor (rows, cols) is (rows, cols / 32 * 22) uint8; cols must divide by 32. 5.5 bits a weight.
"""

import numpy as np
import numpy.typing as npt

from .format import Blocks, Format, Values
from .grid import Codes, Layout
from .q4_0 import read_scale, write_scale


def pack_codes(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(n, 32) codes 0..31 -> (n, 20), qh and qs."""
    high = np.packbits(codes >> np.uint8(4), axis=1, bitorder="little")
    low = codes & np.uint8(15)
    return np.concatenate([high, low[:, :16] | low[:, 16:] << np.uint8(4)], axis=1)


def unpack_codes(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(n, 20), qh and qs -> (n, 32) codes 0..31."""
    high = np.unpackbits(packed[:, :4], axis=1, bitorder="little")
    low = np.concatenate([packed[:, 4:] & np.uint8(15), packed[:, 4:] >> np.uint8(4)], axis=1)
    codes: Codes = low | high << np.uint8(4)
    return codes


def quantize_blocks(x: Values) -> Blocks:
    """(n, 32) float32 -> (n, 22) uint8."""
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        d = peak / np.float32(-16)  # as in Q4_0, the largest magnitude gets the code 0
        inverse = np.where(d == 0, np.float32(0), 1 / d)
        codes = np.trunc(x * inverse + np.float32(16.5)).astype(np.uint8).clip(0, 31)
        scales = d.astype(np.float16)
    return np.concatenate([scales.view(np.uint8), pack_codes(codes)], axis=1)


def dequantize_blocks(blocks: Blocks) -> Values:
    """(n, 22) uint8 -> (n, 32) float32."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return (unpack_codes(blocks[:, 2:]).astype(np.float32) - np.float32(16)) * d


def _write_codes(blocks: Blocks, codes: Codes) -> None:
    blocks[:, 2:] = pack_codes(codes)


LAYOUT = Layout(-16, 15, read_scale, _write_codes, write_scale)
Q5_0 = Format("Q5_0", 6, 32, 22, quantize_blocks, dequantize_blocks, LAYOUT)
