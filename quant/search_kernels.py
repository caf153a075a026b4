"""The search of each format, as an entry: which kind, how fine, and how far.

An entry takes (values, importance, runs, period, scales, codes, scratch): addresses of float32 runs
one after the other; of the importance of `period` runs, which then begins again; and of what it
writes, the scales (d, dmin, s, m of sixteen runs each, float32) and the codes, a byte each.
"""

import numpy as np

from .iq4_nl import VALUES
from .jit import Entry, entry, kernel
from .minimum_search import minimum_search
from .runs import LANES, LINE, load_runs, store_runs, weigh_runs
from .scale_search import scale_search, table_levels, whole_levels

SCRATCH = 2 * 32 * LINE + 32 * LANES + 2 * LANES * LINE  # weights, importance, codes, spare


def _over_runs(n, search):
    """Apply a search to all runs of n weights, sixteen at a time."""

    @kernel
    def apply(values, importance, runs, period, scales, codes, scratch):
        x, w, c = scratch, scratch + n * LINE, scratch + 2 * n * LINE
        spare = c + n * LANES
        for first in range(0, runs, LANES):
            load_runs(values, first, runs - 1, runs, n, x, spare)
            load_runs(importance, first, runs - 1, period, n, w, spare)
            weigh_runs(x, n, w)
            search(x, w, scales + first * 16, c)
            store_runs(c, first, runs - 1, n, codes, spare)

    return apply


def _spread(first, last, n):
    return tuple(np.linspace(first, last, n).tolist())


# Where each type's error stops to fall for more: in step 1 the ends that are tried,
Q2_SHRINKS = (-0.1, 0.0, 0.1, 0.2, 0.3)
Q4_SHRINKS = (-0.06, -0.02, 0.02, 0.06, 0.12)
Q5_SHRINKS = (-0.04, -0.02, 0.0, 0.02, 0.05)
Q3_ENDS = _spread(-5.2, -2.6, 14) + _spread(2.0, 3.8, 10)
Q4_ENDS = _spread(-9.4, -5.9, 15) + _spread(5.6, 7.8, 10)
Q5_ENDS = _spread(-17.2, -13.2, 17) + _spread(13.0, 15.75, 12)
Q6_ENDS = _spread(-34.5, -28.0, 26)
IQ4_ENDS = _spread(-139.0, -91.0, 13) + _spread(92.0, 120.0, 8)
# and in step 2 the largest s or m, as a part of what the format allows.
STRETCHES = _spread(1.04, 0.92, 7)
STRETCHES_OF_EITHER_SIGN = _spread(1.04, 0.82, 12) + _spread(-1.0, -0.82, 10)


def _scale_search(n, group, levels, ends, s_low, s_high, reach, rounds):
    stretches = STRETCHES_OF_EITHER_SIGN
    search = scale_search(n, group, levels, ends, s_low, s_high, stretches, reach, rounds)
    return _over_runs(n, search)


def _minimum_search(n, group, highest, most, shrinks, rounds):
    return _over_runs(n, minimum_search(n, group, highest, most, shrinks, STRETCHES, 2, rounds))


_q6_k = _scale_search(16, 16, whole_levels(-32, 31), Q6_ENDS, -128, 127, 4, 1)
_q5_k = _minimum_search(32, 8, 31, 63, Q5_SHRINKS, 1)
_q4_k = _minimum_search(32, 8, 15, 63, Q4_SHRINKS, 1)
_q3_k = _scale_search(16, 16, whole_levels(-4, 3), Q3_ENDS, -32, 31, 2, 3)
_q2_k = _minimum_search(16, 16, 3, 15, Q2_SHRINKS, 2)
_iq4_xs = _scale_search(32, 8, table_levels(VALUES), IQ4_ENDS, -32, 31, 1, 2)
_iq4_nl = _scale_search(32, 1, table_levels(VALUES), IQ4_ENDS, 1, 1, 0, 2)
_q5_1 = _minimum_search(32, 1, 31, 1, Q5_SHRINKS, 1)
_q5_0 = _scale_search(32, 1, whole_levels(-16, 15), Q5_ENDS, 1, 1, 0, 2)
_q4_1 = _minimum_search(32, 1, 15, 1, Q4_SHRINKS, 1)
_q4_0 = _scale_search(32, 1, whole_levels(-8, 7), Q4_ENDS, 1, 1, 0, 2)


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
