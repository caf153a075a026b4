"""Sixteen runs of weights side by side, one a lane: what the searches for scales read and write.

A run is the weights that share a scale: 16 or 32 of a super-block, or a whole block. Number i of
all sixteen is one vector: weights and importance (n, 16) float32, codes (n, 16) int8.
"""

import numpy as np

from .jit import inlined, kernel
from .simd.lanes import interleave_high, interleave_low, nearest_f16, square_root, where_less
from .simd.vector import (
    fma,
    larger,
    load_f32x16,
    load_i8x16,
    magnitude,
    round_even,
    smaller,
    splat_f32x16,
    store,
    with_sign_of,
)

LANES = 16
LINE = LANES * 4  # bytes of a vector
BIGGEST = 65504  # of float16
LEAST = 2.0**-24  # of float16, above zero
LEAST_SIZE = 1e-12  # of a weight, so that a run of zeros counts for something


@inlined
def numbers(value):
    """The same float32 in all lanes."""
    return splat_f32x16(np.float32(value))


@inlined
def zeros():
    return numbers(0)


@inlined
def endless():
    return numbers(np.inf)


@inlined
def quotient(a, b):
    """a / b; 0 where b is 0 or that is not finite."""
    whole = a / b
    return where_less(magnitude(whole), endless(), whole, zeros())


@inlined
def inverse_or_zero(scale):
    return quotient(numbers(1), scale)


@inlined
def clamp(value, low, high):
    """Between two numbers; `high` for what is no number."""
    below = smaller(value, numbers(high))
    return larger(below, numbers(low))


@inlined
def nearest_whole(value, low, high):
    return round_even(clamp(value, low, high))


@inlined
def as_stored(d):
    """The nearest float16, but zero only for zero."""
    size = nearest_f16(smaller(magnitude(d), numbers(BIGGEST)))
    size = larger(size, numbers(LEAST))
    return where_less(zeros(), magnitude(d), with_sign_of(size, d), zeros())


@inlined
def keep_better(error, least, a, b, best_a, best_b):
    """Lane by lane a and b where their error is less than the least, else the best so far."""
    best_a = where_less(error, least, a, best_a)
    best_b = where_less(error, least, b, best_b)
    return best_a, best_b, smaller(error, least)


@kernel
def _shuffle_floats(source, to):
    """Rows r and r + 8 woven together: four times over, this exchanges rows and columns."""
    for r in range(8):
        a, b = load_f32x16(source + r * LINE), load_f32x16(source + (r + 8) * LINE)
        store(to + 2 * r * LINE, interleave_low(a, b))
        store(to + (2 * r + 1) * LINE, interleave_high(a, b))


@kernel
def _shuffle_bytes(source, to):
    for r in range(8):
        a, b = load_i8x16(source + r * LANES), load_i8x16(source + (r + 8) * LANES)
        store(to + 2 * r * LANES, interleave_low(a, b))
        store(to + (2 * r + 1) * LANES, interleave_high(a, b))


@kernel
def load_runs(source, first, last, period, n, to, spare):
    """Runs first, first + 1, ... of n float32 to (n, 16); behind the last it is repeated.

    period: source holds this many runs, and then they begin again. spare: 2 KB.
    """
    for start in range(0, n, LANES):
        for lane in range(LANES):
            run = min(first + lane, last) % period
            store(spare + lane * LINE, load_f32x16(source + (run * n + start) * 4))
        at = to + start * LINE
        _shuffle_floats(spare, spare + LANES * LINE)
        _shuffle_floats(spare + LANES * LINE, spare)
        _shuffle_floats(spare, spare + LANES * LINE)
        _shuffle_floats(spare + LANES * LINE, at)


@kernel
def weigh_runs(x, n, w):
    """Multiply each importance by sqrt(mean square of its run + weight ** 2).

    A large weight then counts more than a small one, though its error does no more to the outputs
    of the channels that were looked at: it is more likely to matter elsewhere. llama.cpp weighs so.
    """
    squares = zeros()
    for i in range(0, n * LINE, LINE):
        squares = fma(load_f32x16(x + i), load_f32x16(x + i), squares)
    mean = squares * numbers(1.0 / n)
    for i in range(0, n * LINE, LINE):
        v = load_f32x16(x + i)
        size = larger(square_root(fma(v, v, mean)), numbers(LEAST_SIZE))
        store(w + i, load_f32x16(w + i) * size)


@kernel
def store_runs(codes, first, last, n, to, spare):
    """(n, 16) int8 to runs first..last, each n bytes in a row, at most sixteen."""
    for start in range(0, n, LANES):
        _shuffle_bytes(codes + start * LANES, spare)
        _shuffle_bytes(spare, spare + 256)
        _shuffle_bytes(spare + 256, spare)
        _shuffle_bytes(spare, spare + 256)
        for lane in range(min(LANES, last - first + 1)):
            code = load_i8x16(spare + 256 + lane * LANES)
            store(to + (first + lane) * n + start, code)
