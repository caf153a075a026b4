"""Packed bytes and numbers: the formats of GGUF tensors, and products on their raw bytes.

The ground floor: imports numpy and llvmlite (numba, where something is to be compiled; gguf-py,
when a format needs a codebook), itself by relative imports, and nothing else.
"""

import numpy as np
import numpy.typing as npt

from .dense import BF16, F16, F32
from .format import Format
from .iq1 import IQ1_M, IQ1_S
from .iq2 import IQ2_S, IQ2_XS, IQ2_XXS
from .iq3 import IQ3_S, IQ3_XXS
from .iq4_nl import IQ4_NL
from .iq4_xs import IQ4_XS
from .mxfp4 import MXFP4
from .q2_k import Q2_K
from .q3_k import Q3_K
from .q4_0 import Q4_0
from .q4_1 import Q4_1
from .q4_k import Q4_K
from .q5_0 import Q5_0
from .q5_1 import Q5_1
from .q5_k import Q5_K
from .q6_k import Q6_K
from .q8_0 import Q8_0
from .ternary import TQ1_0, TQ2_0

__all__ = ["FORMATS", "Format", "dequantize", "find_format", "quantize"]

FORMATS: tuple[Format, ...] = (
    F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, Q3_K, Q2_K, IQ4_NL, IQ4_XS,
    MXFP4, IQ3_S, IQ3_XXS, IQ2_S, IQ2_XS, IQ2_XXS, TQ2_0, TQ1_0, IQ1_M, IQ1_S,
)  # fmt: skip

_BY_KEY: dict[str | int, Format] = {f.name: f for f in FORMATS} | {f.ggml_type: f for f in FORMATS}


def find_format(key: str | int) -> Format:
    """The format of this name (in any case) or GGML type id; ValueError lists those that exist."""
    found = _BY_KEY.get(key.upper() if isinstance(key, str) else key)
    if found is None:
        known = ", ".join(f.name for f in FORMATS)
        raise ValueError(f"unknown tensor format {key!r}; known are {known}")
    return found


def quantize(x: npt.ArrayLike, name: str) -> npt.NDArray[np.uint8]:
    """(rows, cols) float32 -> (rows, row_bytes) uint8 in the format `name`."""
    return find_format(name).quantize(x)


def dequantize(packed: npt.ArrayLike, name: str) -> npt.NDArray[np.float32]:
    """(rows, row_bytes) uint8 in the format `name` -> (rows, cols) float32."""
    return find_format(name).dequantize(packed)
