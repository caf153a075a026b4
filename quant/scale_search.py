"""The search for scales of formats whose weights are scale * level.

scale = d * s, where s is a whole number from s_low to s_high for each run of weights, and d a
float16 number of either sign for each super-block: a group of runs. Where each run is a block by
itself, s is 1. What is made as small as can be is the sum of importance * (weight - scale * level)
** 2, in three steps:

1. For each run alone, in real numbers: levels by rounding to several scales, each of which puts the
   weight of largest magnitude at another place near either end of the levels; the scale that fits
   those levels best, by least squares.
2. Of several d the one with the least error for the levels found, each run taking its best s.
3. The neighbours of each s, with the levels that they call for; then d by least squares for what
   was chosen; repeated, and kept where the error falls.

All sixteen lanes of a vector do this at once, each for a run.
"""

from itertools import pairwise

from .jit import inlined, kernel
from .runs import (
    LANES,
    LINE,
    as_stored,
    clamp,
    endless,
    inverse_or_zero,
    keep_better,
    nearest_whole,
    numbers,
    quotient,
    zeros,
)
from .simd.lanes import max_of_groups, staircase, sum_of_groups, where_less
from .simd.vector import (
    f32x16_to_i32,
    fma,
    i32x16_to_i8,
    load_f32x16,
    magnitude,
    store,
)


def whole_levels(lowest, highest):
    """Levels lowest, lowest + 1, ... highest: what rounds to one of them, and what numbers them."""

    @inlined
    def nearest(value):
        return nearest_whole(value, lowest, highest)

    @inlined
    def number(level):
        return level - numbers(lowest)

    return nearest, number


def table_levels(values):
    """The same of levels that are any rising numbers."""
    middles = [(a + b) / 2 for a, b in pairwise(values)]
    return staircase(middles, values), staircase(middles, range(len(values)))


def scale_search(n, group, levels, ends, s_low, s_high, stretches, reach, rounds):
    """The kernel for runs of n weights, `group` of them to a super-block.

    ends: where among the levels the weight of largest magnitude is tried in step 1; stretches: what
    the s of the largest scale is tried as in step 2, of s_low; reach: how far the neighbours of
    step 3 are away; rounds: how often it is repeated.
    """
    alone = group == 1
    nearest, number = levels
    sum_group, max_group = sum_of_groups(group), max_of_groups(group)
    n_ends, n_stretches = len(ends), len(stretches)

    @kernel
    def moments(x, w, inverse):
        """Sums of w * level * x and w * level ** 2 for the levels nearest to x * inverse."""
        qx = qq = zeros()
        for i in range(0, n * LINE, LINE):
            v = load_f32x16(x + i)
            level = nearest(v * inverse)
            weighted = load_f32x16(w + i) * level
            qx, qq = fma(weighted, v, qx), fma(weighted, level, qq)
        return qx, qq

    @kernel
    def error_of(x, w, scale):
        inverse = inverse_or_zero(scale)
        error = zeros()
        for i in range(0, n * LINE, LINE):
            v = load_f32x16(x + i)
            miss = v - scale * nearest(v * inverse)
            error = fma(load_f32x16(w + i) * miss, miss, error)
        return error

    @kernel
    def fit_alone(x, w):
        """Step 1: the moments of each run at its best; their quotient is its scale."""
        peak = zeros()
        for i in range(0, n * LINE, LINE):
            v = load_f32x16(x + i)
            peak = where_less(magnitude(peak), magnitude(v), v, peak)
        best_qx = best_qq = zeros()
        least = zeros()
        for i in range(n_ends):
            qx, qq = moments(x, w, quotient(numbers(ends[i]), peak))
            error = zeros() - qx * quotient(qx, qq)  # less that of zeros
            best_qx, best_qq, least = keep_better(error, least, qx, qq, best_qx, best_qq)
        return best_qx, best_qq

    @kernel
    def choose_scales(qx, qq):
        """Step 2: d of each group, s of each run."""
        scale = quotient(qx, qq)
        if alone:
            return as_stored(scale), numbers(1)
        highest, lowest = max_group(scale), zeros() - max_group(zeros() - scale)
        widest = where_less(highest, magnitude(lowest), lowest, highest)
        d = s = zeros()
        least = endless()
        for i in range(n_stretches):
            new_d = as_stored(widest / numbers(s_low * stretches[i]))
            new_s = nearest_whole(scale * inverse_or_zero(new_d), s_low, s_high)
            tried = new_d * new_s
            error = sum_group(tried * (tried * qq - qx - qx))  # less that of zeros
            d, s, least = keep_better(error, least, new_d, new_s, d, s)
        return d, s

    @kernel
    def neighbours(x, w, d, s):
        """Of s and those up to `reach` away the one of least error; and that error."""
        best = s
        least = endless()
        for i in range(-reach, reach + 1):
            new_s = clamp(s + numbers(i), s_low, s_high)
            error = error_of(x, w, d * new_s)
            best, _, least = keep_better(error, least, new_s, new_s, best, best)
        return best, least

    @kernel
    def search(x, w, scales, codes):
        """Writes d, 0, s and 0, (4, 16) float32, and the codes, (n, 16) int8."""
        d, s = choose_scales(*fit_alone(x, w))
        s, least = neighbours(x, w, d, s)
        least = sum_group(least)
        for _ in range(rounds):
            qx, qq = moments(x, w, inverse_or_zero(d * s))
            new_d = as_stored(quotient(sum_group(s * qx), sum_group(s * s * qq)))
            new_s, error = neighbours(x, w, new_d, s)
            d, s, least = keep_better(sum_group(error), least, new_d, new_s, d, s)
        if alone:  # where even the least float16 is too large
            d = where_less(error_of(x, w, zeros()), least, zeros(), d)
        store(scales, d)
        store(scales + LINE, zeros())
        store(scales + 2 * LINE, s)
        store(scales + 3 * LINE, zeros())
        inverse = inverse_or_zero(d * s)
        for i in range(n):
            code = number(nearest(load_f32x16(x + i * LINE) * inverse))
            store(codes + i * LANES, i32x16_to_i8(f32x16_to_i32(code)))

    return search
