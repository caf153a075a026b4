"""Filters and temperature against their definitions, in plain Python, on random logits."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama.sampling import (
    Candidates,
    min_p,
    scale,
    scale_by_entropy,
    softmax_weights,
    top_k,
    top_n_sigma,
    top_p,
    typical,
    xtc,
)
from edgellama.sampling.mirostat import mirostat

# Quarters, so that equal logits are frequent; ids in no order.
LOGITS = st.lists(st.integers(-60, 60).map(lambda q: q / 4), min_size=1, max_size=40)
SHARE = st.floats(0.001, 0.999)
COMMON = settings(max_examples=80, deadline=None, derandomize=True)
NEAR = 1e-6  # of float32's exp: where a definition hangs on less, either answer is right


def candidates_of(logits: list[float]) -> Candidates:
    ids = np.random.default_rng(len(logits)).permutation(1000)[: len(logits)]
    return Candidates(ids, np.array(logits, np.float32))


def probabilities(candidates: Candidates) -> dict[int, float]:
    weights = {
        int(id): math.exp(float(z)) for id, z in zip(candidates.ids, candidates.logits, strict=True)
    }
    total = math.fsum(weights.values())
    return {id: weight / total for id, weight in weights.items()}


def kept_ids(candidates: Candidates) -> set[int]:
    return set(candidates.ids.tolist())


@COMMON
@given(LOGITS, st.integers(1, 50))
def test_top_k_keeps_the_k_best_in_falling_order(logits: list[float], k: int) -> None:
    kept = top_k(candidates_of(logits), k)
    best = sorted(logits, reverse=True)[:k]
    assert sorted(kept.logits.tolist(), reverse=True) == best
    if k <= len(logits):
        assert kept.logits.tolist() == best


@COMMON
@given(LOGITS, SHARE)
def test_top_p_holds_p_and_would_not_without_its_last(logits: list[float], p: float) -> None:
    before = candidates_of(logits)
    share = probabilities(before)
    kept = top_p(before, p)
    masses = [share[id] for id in kept.ids.tolist()]
    assert sum(masses) >= p - NEAR
    assert sum(masses[:-1]) < p + NEAR
    dropped = [share[id] for id in share.keys() - kept_ids(kept)]
    assert min(masses) >= max(dropped, default=0) - NEAR


@COMMON
@given(LOGITS, SHARE)
def test_min_p_drops_what_is_less_than_p_times_the_best(logits: list[float], p: float) -> None:
    before = candidates_of(logits)
    share = probabilities(before)
    limit = p * max(share.values())
    kept = kept_ids(min_p(before, p))
    assert {id for id, q in share.items() if q > limit * (1 + NEAR)} <= kept
    assert kept <= {id for id, q in share.items() if q >= limit * (1 - NEAR)}


@COMMON
@given(LOGITS, SHARE)
def test_typical_holds_p_by_tokens_nearest_to_the_entropy(logits: list[float], p: float) -> None:
    before = candidates_of(logits)
    share = probabilities(before)
    entropy = -math.fsum(q * math.log(q) for q in share.values())
    distance = {id: abs(-math.log(q) - entropy) for id, q in share.items()}
    kept = kept_ids(typical(before, p))
    assert sum(share[id] for id in kept) >= p - NEAR
    furthest = max(kept, key=lambda id: (distance[id], share[id]))
    assert sum(share[id] for id in kept - {furthest}) <= p + NEAR or len(kept) == 1
    nearest_dropped = min((distance[id] for id in share.keys() - kept), default=math.inf)
    assert distance[furthest] <= nearest_dropped + 1e-5  # of logits to 15 in float32


@COMMON
@given(LOGITS, st.floats(0.01, 5))
def test_top_n_sigma_keeps_what_is_near_the_best(logits: list[float], n: float) -> None:
    before = candidates_of(logits)
    mean = sum(logits) / len(logits)
    sigma = math.sqrt(sum((z - mean) ** 2 for z in logits) / len(logits))
    limit = max(logits) - n * sigma
    kept = top_n_sigma(before, n).logits.tolist()
    assert sorted(z for z in logits if z > limit + 1e-5) == sorted(
        z for z in kept if z > limit + 1e-5
    )
    assert all(z >= limit - 1e-5 for z in kept)


@COMMON
@given(LOGITS, st.floats(0, 0.5))
def test_xtc_keeps_one_top_choice_the_least_likely(logits: list[float], threshold: float) -> None:
    before = candidates_of(logits)
    share = probabilities(before)
    top = {id for id, q in share.items() if q >= threshold}
    near = any(abs(q - threshold) < NEAR for q in share.values())
    kept = kept_ids(xtc(before, threshold))
    if near:
        return
    if len(top) < 2:
        assert kept == share.keys()
        return
    (stays,) = top & kept
    assert share[stays] == min(share[id] for id in top)
    assert kept == (share.keys() - top) | {stays}


@COMMON
@given(LOGITS, st.floats(-3, 12))
def test_mirostat_keeps_what_surprises_by_mu_bits_at_most(logits: list[float], mu: float) -> None:
    before = candidates_of(logits)
    surprise = {id: -math.log2(q) for id, q in probabilities(before).items()}
    kept = kept_ids(mirostat(before, mu))
    if kept - {id for id, bits in surprise.items() if bits <= mu + 1e-5}:
        assert all(surprise[id] <= min(surprise.values()) + 1e-5 for id in kept)
    assert {id for id, bits in surprise.items() if bits < mu - 1e-5} <= kept


@COMMON
@given(LOGITS, st.floats(0.05, 20))
def test_temperature_divides_log_probabilities(logits: list[float], temperature: float) -> None:
    after = scale(candidates_of(logits), temperature)
    expected = [(z - max(logits)) / temperature for z in logits]
    np.testing.assert_allclose(after.logits, expected, rtol=3e-7)  # two roundings of float32


@COMMON
@given(LOGITS, st.floats(0.1, 2), st.floats(0.1, 2), st.floats(0.2, 3))
def test_dynamic_temperature_follows_the_entropy(
    logits: list[float], temperature: float, range: float, exponent: float
) -> None:
    before = candidates_of(logits)
    after = scale_by_entropy(before, temperature, range, exponent)
    if len(logits) == 1:
        assert after == before
        return
    entropy = -math.fsum(q * math.log(q) for q in probabilities(before).values())
    doubt = (entropy / math.log(len(logits))) ** exponent
    low = max(0.0, temperature - range)
    expected = scale(before, low + (temperature + range - low) * doubt).logits
    np.testing.assert_allclose(after.logits, expected, rtol=1e-5)  # entropy of float32 logits


LINKS: list[Callable[[Candidates], Candidates]] = [
    lambda c: top_k(c, 3),
    lambda c: top_p(c, 0.5),
    lambda c: min_p(c, 0.3),
    lambda c: typical(c, 0.5),
    lambda c: top_n_sigma(c, 1.0),
    lambda c: xtc(c, 0.1),
    lambda c: mirostat(c, 0.1),
    lambda c: scale(c, 0.5),
    lambda c: scale_by_entropy(c, 0.5, 0.5, 1.0),
]


@pytest.mark.parametrize("link", LINKS)
@COMMON
@given(LOGITS)
def test_a_link_is_pure_and_leaves_a_token(
    link: Callable[[Candidates], Candidates], logits: list[float]
) -> None:
    before = candidates_of(logits)
    ids, copy = before.ids.copy(), before.logits.copy()
    after = link(before)
    assert len(after.ids) == len(after.logits) >= 1
    assert kept_ids(after) <= kept_ids(before)
    assert np.isfinite(after.logits).all()
    assert after.logits.dtype == np.float32
    np.testing.assert_array_equal(before.ids, ids)
    np.testing.assert_array_equal(before.logits, copy)


@pytest.mark.parametrize("link", LINKS)
def test_logits_far_apart_neither_overflow_nor_become_nan(
    link: Callable[[Candidates], Candidates],
) -> None:
    after = link(candidates_of([1e4, 0.0, -1e4, -1e30]))
    assert np.isfinite(after.logits).all()
    assert np.isfinite(softmax_weights(after.logits)).all()
