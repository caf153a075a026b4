"""The compiled choice of a token. `sampling` has the same link by link, in numpy.

    one pass over all logits   finite? the largest; the sum of exp, if it is asked for
    another                    the `most` largest, in falling order, the lower id first among equals
    over these                 cut by top_p and min_p, weighed by temperature, drawn by chance

Sums are float64 in falling order. exp is that of the step: it may differ from numpy's by some units
in the last place of float32, so one choice in millions is its neighbour's.
"""

from typing import Any

import numpy as np

from .draw import DRAW
from .ops import exp
from .quant.jit import entry, kernel
from .quant.records import record_at
from .quant.simd.vector import (
    first_lanes,
    larger,
    load_f32,
    load_f32x16,
    load_i64,
    max_lanes,
    splat_f32x16,
    store,
    sum_lanes,
)

LANES = 16
PIECE = 16 * LANES  # logits whose exp are summed in float32: that costs 1e-7 of the sum
record = record_at(DRAW)
KEPT, IDS, WEIGHTS = (DRAW.fields[name][1] for name in ("kept", "ids", "weights"))  # type: ignore[index]
NOTHING = np.float32(-np.inf)


@entry
def draw(addresses: int, n: int) -> None:
    """Choose for each of the n records whose addresses are at an address."""
    for i in range(n):
        at = load_i64(addresses + i * 8)
        d = record(at)
        measure(d, at)
        n_kept = find_largest(d, at)
        d.id = -1
        if n_kept > 0:
            d.id = load_i64(at + IDS + choose(d, at, n_kept) * 8)
            d.logit = load_f32(d.logits + d.id * 4)


@kernel
def measure(d: Any, at: int) -> None:
    """What is to be known of all logits: are they finite, the largest, the sum of exp."""
    zero = splat_f32x16(np.float32(0))
    top, odd = splat_f32x16(NOTHING), zero
    last = copy_last(d, at + WEIGHTS)
    for i in range(0, d.n, LANES):
        logits = load_f32x16(d.logits + i * 4 if i + LANES <= d.n else last)
        top = larger(logits, top)
        odd = odd + (logits - logits)  # not 0 of what is not finite
    d.finite = sum_lanes(odd) == np.float32(0)
    d.best = max_lanes(top)
    d.mass = 0.0
    if d.wants_mass:
        best = splat_f32x16(d.best)
        for start in range(0, d.n, PIECE):
            total = zero
            for i in range(start, min(start + PIECE, d.n), LANES):
                logits = load_f32x16(d.logits + i * 4 if i + LANES <= d.n else last)
                total = total + first_lanes(exp(logits - best), d.n - i, np.float32(0))
            d.mass += np.float64(sum_lanes(total))


@kernel
def copy_last(d: Any, to: int) -> int:
    """The logits behind the last whole vector, the last of them repeated: a vector; `to` again."""
    whole = d.n // LANES * LANES
    for i in range(LANES):
        store(to + i * 4, load_f32(d.logits + min(whole + i, d.n - 1) * 4))
    return to


@kernel
def find_largest(d: Any, at: int) -> int:
    """Keep the largest logits, biases added; how many: fewer than `most` where others are -inf."""
    n_kept = 0
    start = 0
    for i in range(d.n_biases):
        id = load_i64(d.biased_ids + i * 8)
        n_kept = scan(d, at, n_kept, start, id)
        biased = load_f32(d.logits + id * 4) + load_f32(d.biases + i * 4)
        n_kept = offer(d, at, n_kept, id, biased)
        start = id + 1
    return scan(d, at, n_kept, start, d.n)


@kernel
def scan(d: Any, at: int, n_kept: int, start: int, end: int) -> int:
    """Offer the ids start to end - 1."""
    last = at + KEPT + (d.most - 1) * 4
    while start < end:
        stop = min(start + LANES, end)
        whole = n_kept == d.most and stop - start == LANES
        if not whole or max_lanes(load_f32x16(d.logits + start * 4)) > load_f32(last):
            for id in range(start, stop):
                n_kept = offer(d, at, n_kept, id, load_f32(d.logits + id * 4))
        start = stop
    return n_kept


@kernel
def offer(d: Any, at: int, n_kept: int, id: int, logit: Any) -> int:
    """Put a candidate in its place among those kept, behind its equals; how many there are now."""
    kept, ids = at + KEPT, at + IDS
    if n_kept == d.most:
        if not logit > load_f32(kept + (n_kept - 1) * 4):
            return n_kept
        n_kept -= 1
    elif logit == NOTHING:
        return n_kept
    place = n_kept
    while place > 0 and load_f32(kept + (place - 1) * 4) < logit:
        store(kept + place * 4, load_f32(kept + (place - 1) * 4))
        store(ids + place * 8, load_i64(ids + (place - 1) * 8))
        place -= 1
    store(kept + place * 4, logit)
    store(ids + place * 8, id)
    return n_kept + 1


@kernel
def choose(d: Any, at: int, n: int) -> int:
    """The place at `chance` of what the chain leaves of the n candidates."""
    if n == 1:
        return 0
    kept, weights = at + KEPT, at + WEIGHTS
    best = load_f32(kept)
    weigh(at, n, best, np.float32(1))
    target = d.top_p * total_of(weights, n)
    reached, n_left = 0.0, 0
    while n_left < n and (n_left == 0 or reached < target):
        reached += np.float64(load_f32(weights + n_left * 4))
        n_left += 1
    while load_f32(kept + (n_left - 1) * 4) < best + d.min_p:
        n_left -= 1
    if d.temperature != np.float32(1):
        weigh(at, n_left, best, d.temperature)
    target = d.chance * total_of(weights, n_left)
    place, reached = 0, np.float64(load_f32(weights))
    while place < n_left - 1 and reached <= target:
        place += 1
        reached += np.float64(load_f32(weights + place * 4))
    return place


@kernel
def weigh(at: int, n: int, best: Any, temperature: Any) -> None:
    """exp((logit - best) / temperature) of the n candidates."""
    for i in range(0, n, LANES):
        below = load_f32x16(at + KEPT + i * 4) - splat_f32x16(best)
        store(at + WEIGHTS + i * 4, exp(below / splat_f32x16(temperature)))


@kernel
def total_of(weights: int, n: int) -> float:
    total = 0.0
    for i in range(n):
        total += np.float64(load_f32(weights + i * 4))
    return total
