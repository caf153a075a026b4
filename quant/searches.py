"""Quantizing by a search for scales: one kernel for each format, and the rows they work on."""

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .grid import Scales
from .iq4_nl import VALUES
from .jit import Entry, entry, kernel
from .minimum_search import minimum_search
from .runs import LANES, LINE, load_runs, store_runs
from .scale_search import scale_search, table_levels, whole_levels

if TYPE_CHECKING:
    from .format import Format

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CHUNK = 1 << 16  # weights at a time, so that what numpy packs is still in the cache
SCRATCH = 2 * 32 * LINE + 32 * LANES + 2 * LANES * LINE  # weights, importance, codes, spare
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
    """(cols,) float32 with mean 1."""
    if importance is None:
        return np.ones(cols, np.float32)
    given = np.asarray(importance, np.float64)
    if given.shape != (cols,):
        raise ValueError(f"expected the importance of {cols} columns, found shape {given.shape}")
    if not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError("expected an importance of numbers >= 0; found others among them")
    mean = given.mean() if given.any() else 1.0
    return (given / mean + LEAST_IMPORTANCE).astype(np.float32)


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


def _over_runs(n, search):
    """Apply a search to all runs of n weights, sixteen at a time."""

    @kernel
    def apply(values, importance, runs, period, scales, codes, scratch):
        x, w, c = scratch, scratch + n * LINE, scratch + 2 * n * LINE
        spare = c + n * LANES
        for first in range(0, runs, LANES):
            load_runs(values, first, runs - 1, runs, n, x, spare)
            load_runs(importance, first, runs - 1, period, n, w, spare)
            search(x, w, scales + first * 16, c)
            store_runs(c, first, runs - 1, n, codes, spare)

    return apply


# Step 1 of the searches.
SHRINKS = (-0.02, 0.0, 0.02, 0.05)
Q3_ENDS = (-4.6, -4.3, -4.0, -3.7, -3.4, -3.1, 2.5, 2.8, 3.1, 3.4, 3.7)
Q4_ENDS = (-8.8, -8.5, -8.2, -7.9, -7.6, -7.3, -7.0, -6.7, 6.5, 6.8, 7.1, 7.4, 7.7)
Q5_ENDS = (-16.6, -16.3, -16.0, -15.7, -15.4, -15.1, -14.8, -14.5, 14.6, 14.9, 15.2, 15.5)
Q6_ENDS = (-32.8, -32.4, -32.0, -31.6, -31.2)
IQ4_ENDS = (-135.0, -129.0, -123.0, -117.0, -111.0, -105.0, 100.0, 105.0, 110.0, 116.0)
# Step 2.
S_STRETCHES = (
    1.04, 1.02, 1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84, 0.82,
    -1.0, -0.98, -0.96, -0.94, -0.92, -0.9, -0.88, -0.86, -0.84, -0.82,
)  # fmt: skip
M_STRETCHES = (1.04, 1.02, 1.0, 0.98, 0.96, 0.94, 0.92)

_q6_k = _over_runs(
    16, scale_search(16, 16, whole_levels(-32, 31), Q6_ENDS, -128, 127, S_STRETCHES, 4, 1)
)
_q5_k = _over_runs(32, minimum_search(32, 8, 31, 63, SHRINKS, M_STRETCHES, 2, 2))
_q4_k = _over_runs(32, minimum_search(32, 8, 15, 63, SHRINKS, M_STRETCHES, 2, 2))
_q3_k = _over_runs(
    16, scale_search(16, 16, whole_levels(-4, 3), Q3_ENDS, -32, 31, S_STRETCHES, 1, 2)
)
_q2_k = _over_runs(16, minimum_search(16, 16, 3, 15, SHRINKS, M_STRETCHES, 2, 2))
_q5_1 = _over_runs(32, minimum_search(32, 1, 31, 1, SHRINKS, (), 2, 1))
_q5_0 = _over_runs(32, scale_search(32, 1, whole_levels(-16, 15), Q5_ENDS, 1, 1, (), 0, 2))
_q4_1 = _over_runs(32, minimum_search(32, 1, 15, 1, SHRINKS, (), 2, 1))
_q4_0 = _over_runs(32, scale_search(32, 1, whole_levels(-8, 7), Q4_ENDS, 1, 1, (), 0, 2))
_iq4_nl = _over_runs(32, scale_search(32, 1, table_levels(VALUES), IQ4_ENDS, 1, 1, (), 0, 2))
_iq4_xs = _over_runs(
    32, scale_search(32, 8, table_levels(VALUES), IQ4_ENDS, -32, 31, S_STRETCHES, 1, 2)
)


@entry
def search_q6_k(values, importance, runs, period, scales, codes, scratch):
    _q6_k(values, importance, runs, period, scales, codes, scratch)


@entry
def search_q5_k(values, importance, runs, period, scales, codes, scratch):
    _q5_k(values, importance, runs, period, scales, codes, scratch)


@entry
def search_q4_k(values, importance, runs, period, scales, codes, scratch):
    _q4_k(values, importance, runs, period, scales, codes, scratch)


@entry
def search_q3_k(values, importance, runs, period, scales, codes, scratch):
    _q3_k(values, importance, runs, period, scales, codes, scratch)


@entry
def search_q2_k(values, importance, runs, period, scales, codes, scratch):
    _q2_k(values, importance, runs, period, scales, codes, scratch)


@entry
def search_q5_1(values, importance, runs, period, scales, codes, scratch):
    _q5_1(values, importance, runs, period, scales, codes, scratch)


@entry
def search_q5_0(values, importance, runs, period, scales, codes, scratch):
    _q5_0(values, importance, runs, period, scales, codes, scratch)


@entry
def search_q4_1(values, importance, runs, period, scales, codes, scratch):
    _q4_1(values, importance, runs, period, scales, codes, scratch)


@entry
def search_q4_0(values, importance, runs, period, scales, codes, scratch):
    _q4_0(values, importance, runs, period, scales, codes, scratch)


@entry
def search_iq4_nl(values, importance, runs, period, scales, codes, scratch):
    _iq4_nl(values, importance, runs, period, scales, codes, scratch)


@entry
def search_iq4_xs(values, importance, runs, period, scales, codes, scratch):
    _iq4_xs(values, importance, runs, period, scales, codes, scratch)


# The kernels, and how many runs a block of the format has.
SEARCHES: dict[str, Entry] = {
    "Q6_K": search_q6_k, "Q5_K": search_q5_k, "Q4_K": search_q4_k, "Q3_K": search_q3_k,
    "Q2_K": search_q2_k, "IQ4_XS": search_iq4_xs, "IQ4_NL": search_iq4_nl, "Q5_1": search_q5_1,
    "Q5_0": search_q5_0, "Q4_1": search_q4_1, "Q4_0": search_q4_0,
}  # fmt: skip
SUBS = {
    "Q6_K": 16, "Q5_K": 8, "Q4_K": 8, "Q3_K": 16, "Q2_K": 16, "IQ4_XS": 8, "IQ4_NL": 1, "Q5_1": 1,
    "Q5_0": 1, "Q4_1": 1, "Q4_0": 1,
}  # fmt: skip
