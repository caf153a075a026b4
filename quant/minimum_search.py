"""The search for scales and minimums of formats whose weights are scale * code - minimum.

Codes are 0..highest. scale = d * s and minimum = dmin * m, where s and m are whole numbers up to
`most` for each run of weights, and d and dmin are float16 numbers for each super-block: a group of
runs. Where each run is a block by itself, s and m are 1. What is made as small as can be is the sum
of importance * (weight - (scale * code - minimum)) ** 2, in three steps (runs.weigh_runs says what
importance is here):

1. For each run alone, in real numbers: codes by rounding between several pairs of ends; the scale
   and the minimum that fit those codes best, by least squares; the pair with the least error, with
   rounding and fitting repeated.
2. Of several d and dmin those with the least error for the codes found, every run taking its best m
   and then the s that goes with it. With the codes fixed the error of a run is a quadratic in its
   scale and minimum, so this costs no look at the weights.
3. The neighbours of each s and m, with the codes that they call for; then d and dmin by least
   squares for what was chosen; repeated, and kept where the error falls.

All sixteen lanes of a vector do this at once, each for a run.
"""

from .jit import kernel
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
from .simd.lanes import max_of_groups, sum_of_groups, where_less
from .simd.vector import (
    f32x16_to_i32,
    fma,
    i32x16_to_i8,
    larger,
    load_f32x16,
    round_down,
    smaller,
    store,
)

FLAT = 1e-5  # a determinant this small beside its terms: codes too alike to tell scale and minimum


def minimum_search(n, group, highest, most, shrinks, stretches, fits, rounds):
    """The kernel for runs of n weights, `group` of them to a super-block.

    shrinks: by how much of their distance either end is moved inwards in step 1, whose fit is
    repeated `fits` times; stretches: what the largest s and m of step 2 are, of `most`; rounds: how
    often step 3 is repeated.
    """
    alone = group == 1
    reach = 0 if alone else 1  # of the neighbours of step 3
    sum_group, max_group = sum_of_groups(group), max_of_groups(group)
    n_shrinks, n_stretches = len(shrinks), len(stretches)

    @kernel
    def moments(x, w, scale, minimum):
        """Sums of w * code * x, w * code and w * code ** 2 for the codes of this grid."""
        inverse = inverse_or_zero(scale)
        offset = minimum * inverse
        qx = q = qq = zeros()
        for i in range(0, n * LINE, LINE):
            v = load_f32x16(x + i)
            code = nearest_whole(fma(v, inverse, offset), 0, highest)
            weighted = load_f32x16(w + i) * code
            qx, q, qq = fma(weighted, v, qx), q + weighted, fma(weighted, code, qq)
        return qx, q, qq

    @kernel
    def error_of(x, w, scale, minimum):
        inverse = inverse_or_zero(scale)
        offset = minimum * inverse
        error = zeros()
        for i in range(0, n * LINE, LINE):
            v = load_f32x16(x + i)
            code = nearest_whole(fma(v, inverse, offset), 0, highest)
            miss = v + minimum - scale * code
            error = fma(load_f32x16(w + i) * miss, miss, error)
        return error

    @kernel
    def least_squares(aa, ab, bb, ax, bx):
        """a and b of least a * (a * aa - 2 * b * ab - 2 * ax) + b * (b * bb + 2 * bx), b >= 0.

        aa = 0: of b alone. Where each run is a block, b may be negative.
        """
        determinant = aa * bb - ab * ab
        flat = aa * bb * numbers(FLAT)
        only_a = quotient(ax, aa)
        a = where_less(flat, determinant, quotient(ax * bb - ab * bx, determinant), only_a)
        b = where_less(flat, determinant, quotient(ab * ax - aa * bx, determinant), zeros())
        only_b = zeros() - quotient(bx, bb)
        if not alone:
            a = where_less(b, zeros(), only_a, a)
            b, only_b = larger(b, zeros()), larger(only_b, zeros())
        return a, where_less(zeros(), aa, b, only_b)

    @kernel
    def fit_alone(x, w, wx, ww):
        """Step 1: scale and minimum of each run."""
        low = high = load_f32x16(x)
        for i in range(LINE, n * LINE, LINE):
            v = load_f32x16(x + i)
            low, high = smaller(v, low), larger(v, high)
        if not alone:
            low = smaller(low, zeros())
        extent = high - low
        scale = minimum = zeros()
        least = endless()
        for i in range(n_shrinks):
            for j in range(n_shrinks):
                bottom = low + numbers(shrinks[i]) * extent
                top = high - numbers(shrinks[j]) * extent
                step = (top - bottom) / numbers(highest)
                qx, q, qq = moments(x, w, step, zeros() - bottom)
                a, b = least_squares(qq, q, ww, qx, wx)
                error = error_of(x, w, a, b)
                scale, minimum, least = keep_better(error, least, a, b, scale, minimum)
        for _ in range(fits):
            qx, q, qq = moments(x, w, scale, minimum)
            a, b = least_squares(qq, q, ww, qx, wx)
            error = error_of(x, w, a, b)
            scale, minimum, least = keep_better(error, least, a, b, scale, minimum)
        return scale, minimum

    @kernel
    def whole_scales(d, dmin, minimum, qx, q, qq, wx, ww):
        """s and m of each run on this d and dmin, and the error of its codes less that of zeros."""
        inverse = inverse_or_zero(d)
        below = round_down(clamp(minimum * inverse_or_zero(dmin), 0, most - 1))
        s = m = zeros()
        least = endless()
        for up in range(2):
            k = below + numbers(up)
            b = dmin * k
            rest = fma(b, q, qx)
            j = nearest_whole(quotient(rest, qq) * inverse, 0, most)
            a = d * j
            error = a * (a * qq - rest - rest) + b * (b * ww + wx + wx)
            s, m, least = keep_better(error, least, j, k, s, m)
        return s, m, least

    @kernel
    def choose_scales(scale, minimum, qx, q, qq, wx, ww):
        """Step 2: d and dmin of each group, s and m of each run."""
        if alone:
            return as_stored(scale), as_stored(minimum), numbers(1), numbers(1)
        widest, deepest = max_group(scale), max_group(minimum)
        d = dmin = s = m = zeros()
        least = endless()
        for i in range(n_stretches):
            for j in range(n_stretches):
                a = as_stored(widest / numbers(most * stretches[i]))
                b = as_stored(deepest / numbers(most * stretches[j]))
                new_s, new_m, error = whole_scales(a, b, minimum, qx, q, qq, wx, ww)
                error = sum_group(error)
                s, m, _ = keep_better(error, least, new_s, new_m, s, m)
                d, dmin, least = keep_better(error, least, a, b, d, dmin)
        return d, dmin, s, m

    @kernel
    def neighbours(x, w, d, dmin, s, m):
        """Of s and m, each at most one away, those of least error; and that error."""
        best_s, best_m = s, m
        least = endless()
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                new_s = clamp(s + numbers(i), 0, most)
                new_m = clamp(m + numbers(j), 0, most)
                error = error_of(x, w, d * new_s, dmin * new_m)
                best_s, best_m, least = keep_better(error, least, new_s, new_m, best_s, best_m)
        return best_s, best_m, least

    @kernel
    def search(x, w, scales, codes):
        """Writes d, dmin, s and m, (4, 16) float32, and the codes, (n, 16) int8."""
        wx = ww = zeros()
        for i in range(0, n * LINE, LINE):
            weight = load_f32x16(w + i)
            wx, ww = fma(weight, load_f32x16(x + i), wx), ww + weight
        scale, minimum = fit_alone(x, w, wx, ww)
        qx, q, qq = moments(x, w, scale, minimum)
        d, dmin, s, m = choose_scales(scale, minimum, qx, q, qq, wx, ww)
        s, m, least = neighbours(x, w, d, dmin, s, m)
        least = sum_group(least)
        for _ in range(rounds):
            qx, q, qq = moments(x, w, d * s, dmin * m)
            new_d, new_dmin = least_squares(
                sum_group(s * s * qq), sum_group(s * m * q), sum_group(m * m * ww),
                sum_group(s * qx), sum_group(m * wx),
            )  # fmt: skip
            new_d, new_dmin = as_stored(new_d), as_stored(new_dmin)
            new_s, new_m, error = neighbours(x, w, new_d, new_dmin, s, m)
            error = sum_group(error)
            s, m, _ = keep_better(error, least, new_s, new_m, s, m)
            d, dmin, least = keep_better(error, least, new_d, new_dmin, d, dmin)
        store(scales, d)
        store(scales + LINE, dmin)
        store(scales + 2 * LINE, s)
        store(scales + 3 * LINE, m)
        inverse = inverse_or_zero(d * s)
        offset = dmin * m * inverse
        for i in range(n):
            code = nearest_whole(fma(load_f32x16(x + i * LINE), inverse, offset), 0, highest)
            store(codes + i * LANES, i32x16_to_i8(f32x16_to_i32(code)))

    return search
