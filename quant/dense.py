"""F32, F16, BF16: one number a block: IEEE float32, IEEE float16, or the upper half of float32."""

import numpy as np

from .format import Blocks, Format, Values


def _f32_to_bytes(x: Values) -> Blocks:
    return x.view(np.uint8)


def _bytes_to_f32(blocks: Blocks) -> Values:
    return blocks.view(np.float32)


def _f16_to_bytes(x: Values) -> Blocks:
    with np.errstate(over="ignore"):  # beyond 65504 is infinity, as in GGML
        return x.astype(np.float16).view(np.uint8)


def _bytes_to_f16(blocks: Blocks) -> Values:
    return blocks.view(np.float16).astype(np.float32)


def _bf16_to_bytes(x: Values) -> Blocks:
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16  # nearest, ties to even
    quiet_nan = (bits >> 16) | 64
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(is_nan, quiet_nan, rounded).astype(np.uint16).view(np.uint8)


def _bytes_to_bf16(blocks: Blocks) -> Values:
    return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


F32 = Format("F32", 0, 1, 4, _f32_to_bytes, _bytes_to_f32)
F16 = Format("F16", 1, 1, 2, _f16_to_bytes, _bytes_to_f16)
BF16 = Format("BF16", 30, 1, 2, _bf16_to_bytes, _bytes_to_bf16)
