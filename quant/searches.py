"""Quantizing by a search for scales: rows go to the kernel of their format, and are packed."""

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .grid import Scales
from .runs import LANES
from .search_kernels import SCRATCH, SEARCHES, SUBS

if TYPE_CHECKING:
    from .format import Format

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CHUNK = 1 << 16  # weights at a time, so that what numpy packs is still in the cache
LARGEST = 2.0**20  # weight that any of the formats holds
LEAST_IMPORTANCE = 1e-6  # of the mean, so that no run is left without any


def quantize_rows(fmt: "Format", x: F32, importance: npt.ArrayLike | None, packed: Bytes) -> None:
    """Search the scales of (rows, cols) float32 and write the rows to `packed`.

    Raises ValueError for an importance that is not (cols,) numbers >= 0, and for weights that are
    no numbers or above LARGEST.
    """
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise ValueError(f"{fmt.name} weights are made by compiled code; unset NUMBA_DISABLE_JIT")
    rows, cols = x.shape
    weights = _relative(importance, cols)
    step = max(1, CHUNK // max(cols, 1))
    for i in range(0, rows, step):
        _check(fmt, x[i : i + step])
        _quantize_chunk(fmt, x[i : i + step], weights, packed[i : i + step])


def _check(fmt: "Format", x: F32) -> None:
    largest = max(float(x.max(initial=0)), -float(x.min(initial=0)))  # NaN makes both NaN
    if not largest <= LARGEST:
        raise ValueError(f"{fmt.name} holds weights up to {LARGEST:g}; found {largest:g}")


def _relative(importance: npt.ArrayLike | None, cols: int) -> F32:
    """(cols,) float32 with mean 1; columns that nobody tells apart count 1 each."""
    if importance is None:
        return np.ones(cols, np.float32)
    given = np.asarray(importance, np.float64)
    if given.shape != (cols,):
        raise ValueError(f"expected the importance of {cols} columns, found shape {given.shape}")
    if not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError("expected an importance of numbers >= 0; found others among them")
    if not given.any():
        return np.ones(cols, np.float32)
    relative: F32 = np.maximum(given / given.mean(), LEAST_IMPORTANCE).astype(np.float32)
    return relative


def _quantize_chunk(fmt: "Format", x: F32, weights: F32, packed: Bytes) -> None:
    layout, search, subs = fmt.layout, SEARCHES[fmt.name], SUBS[fmt.name]
    assert layout is not None
    assert layout.write_scales is not None
    n = fmt.block_size // subs
    runs = x.size // n
    found = np.empty((-(-runs // LANES), 4, LANES), np.float32)  # d, dmin, s, m of each run
    codes = np.empty((runs, n), np.uint8)
    scratch = np.empty(SCRATCH, np.uint8)
    search.call(
        x.ctypes.data, weights.ctypes.data, runs, x.shape[1] // n,
        found.ctypes.data, codes.ctypes.data, scratch.ctypes.data,
    )  # fmt: skip
    d, dmin, s, m = (found[:, i].reshape(-1)[:runs].reshape(-1, subs) for i in range(4))
    blocks = packed.reshape(-1, fmt.type_size)
    layout.write_scales(blocks, Scales(d[:, :1], dmin[:, :1], s, m))
    layout.write_codes(blocks, codes.reshape(-1, fmt.block_size))
