"""Sampling: each filter against a plain twin, and the whole against known probabilities."""

import math

import numpy as np
import pytest

from edgellama import InvalidRequest, ModelFormatError
from edgellama.sampling import (
    Candidates,
    Sampler,
    SamplingParams,
    log_probability,
    min_p,
    penalize,
    top_k,
    top_p,
)

KEEP_ALL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def logits_of(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities, dtype=np.float32))


def candidates_of(logits: np.ndarray) -> Candidates:
    return Candidates(np.arange(len(logits)), logits)


def random_logits(seed: int, n: int = 5000) -> np.ndarray:
    return (3 * np.random.default_rng(seed).normal(size=n)).astype(np.float32)


def sorted_probabilities(logits: np.ndarray) -> list[tuple[float, int]]:
    """(probability, id), likeliest first, by the definition and in float64."""
    weights = [math.exp(float(z)) for z in logits]
    return sorted(
        ((w / sum(weights), i) for i, w in enumerate(weights)), key=lambda x: (-x[0], x[1])
    )


@pytest.mark.parametrize("k", [1, 2, 40, 4999, 5000, 9000])
def test_top_k_keeps_the_k_largest(k: int) -> None:
    logits = random_logits(1)
    expected = {i for _, i in sorted_probabilities(logits)[:k]}
    assert set(top_k(candidates_of(logits), k).ids.tolist()) == expected


def test_top_k_takes_the_lower_id_among_equals() -> None:
    kept = top_k(candidates_of(np.array([1, 2, 1, 2, 1], dtype=np.float32)), 3)
    assert kept.ids.tolist() == [1, 3, 0]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_shortest_head_that_reaches_p(p: float) -> None:
    logits = random_logits(2)
    mass, expected = 0.0, []
    for probability, i in sorted_probabilities(logits):
        expected.append(i)
        mass += probability
        if mass >= p:
            break
    assert top_p(candidates_of(logits), p).ids.tolist() == expected


def test_top_p_of_a_flat_tail_looks_beyond_its_first_head() -> None:
    kept = top_p(candidates_of(np.zeros(20_000, dtype=np.float32)), 0.5)
    assert kept.ids.tolist() == list(range(10_000))


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 1.0])
def test_min_p_drops_what_is_far_below_the_best(p: float) -> None:
    logits = random_logits(3)
    ranked = sorted_probabilities(logits)
    expected = {i for probability, i in ranked if probability >= p * ranked[0][0]}
    assert set(min_p(candidates_of(logits), p).ids.tolist()) == expected


def test_repeat_penalty_divides_positive_and_multiplies_negative_logits_once() -> None:
    logits = np.array([4.0, -1.0, 3.0, -2.0], dtype=np.float32)
    penalized = penalize(candidates_of(logits), {0: 2, 1: 3}, repeat=2.0)
    assert penalized.logits.tolist() == [2.0, -2.0, 3.0, -2.0]
    assert logits.tolist() == [4.0, -1.0, 3.0, -2.0]


def test_repeat_penalty_looks_back_repeat_last_n_tokens() -> None:
    logits = np.array([4.0, 3.5, 1.0], dtype=np.float32)
    lately = SamplingParams(temperature=0.0, repeat_penalty=2.0, repeat_last_n=2)
    assert Sampler(lately, prompt=[0, 1, 2])(logits) == 0
    always = SamplingParams(temperature=0.0, repeat_penalty=2.0, repeat_last_n=-1)
    assert Sampler(always, prompt=[0, 1, 2])(logits) == 0  # 2.0 against 1.75
    never = SamplingParams(temperature=0.0, repeat_penalty=2.0, repeat_last_n=0)
    assert Sampler(never, prompt=[0])(logits) == 0
    assert Sampler(lately, prompt=[1, 0])(np.array([4.0, 3.5, 3.0], dtype=np.float32)) == 2


def test_the_penalty_counts_what_was_generated() -> None:
    logits = np.array([4.0, 3.0], dtype=np.float32)
    sampler = Sampler(SamplingParams(temperature=0.0, repeat_penalty=1.5))
    assert [sampler(logits) for _ in range(2)] == [0, 1]  # 4.0, then 4 / 1.5 = 2.67 against 3


def test_temperature_zero_is_the_lowest_id_of_the_largest() -> None:
    greedy = Sampler(SamplingParams(temperature=0.0))
    assert greedy(np.array([0, 5, 5, 5, -1], dtype=np.float32)) == 1


def test_a_tiny_temperature_is_greedy_too() -> None:
    cold = Sampler(SamplingParams(temperature=1e-300, seed=0, **KEEP_ALL))
    assert {cold(random_logits(4)) for _ in range(20)} == {int(random_logits(4).argmax())}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    logits = logits_of(0.5, 0.3, 0.15, 0.05)
    sampler = Sampler(SamplingParams(temperature=temperature, seed=7, **KEEP_ALL))
    n = 20_000
    shares = np.bincount([sampler(logits) for _ in range(n)], minlength=4) / n
    expected = np.array([0.5, 0.3, 0.15, 0.05]) ** (1 / temperature)
    expected /= expected.sum()
    # Four standard deviations of a share of n draws; the seed is fixed, so it holds or it does not.
    np.testing.assert_array_less(np.abs(shares - expected), 4 * np.sqrt(expected / n))


def test_filters_leave_only_what_they_keep() -> None:
    logits = logits_of(0.5, 0.3, 0.15, 0.05)
    for options, kept in [
        ({"top_k": 2, "top_p": 1.0, "min_p": 0.0}, {0, 1}),
        ({"top_k": 0, "top_p": 0.9, "min_p": 0.0}, {0, 1, 2}),
        ({"top_k": 0, "top_p": 1.0, "min_p": 0.2}, {0, 1, 2}),
        ({"top_k": 3, "top_p": 0.6, "min_p": 0.0}, {0, 1}),
    ]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=1, **options))
        assert {sampler(logits) for _ in range(500)} == kept


def test_a_seed_repeats_itself_and_none_does_not() -> None:
    logits = np.zeros(1000, dtype=np.float32)

    def draw(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed, **KEEP_ALL))
        return [sampler(logits) for _ in range(10)]

    assert draw(42) == draw(42) == draw(42)
    assert draw(42) != draw(43)
    assert draw(None) != draw(None)  # equal once in 10**30 runs


def test_log_probability_is_log_softmax() -> None:
    logits = random_logits(5, n=100)
    expected = [math.log(p) for p, _ in sorted(sorted_probabilities(logits), key=lambda x: x[1])]
    got = [log_probability(logits, i) for i in range(100)]
    np.testing.assert_allclose(got, expected, atol=2e-6)  # float32 exp, values up to 20


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_never_sampled(bad: float, temperature: float) -> None:
    logits = np.zeros(10, dtype=np.float32)
    logits[3] = bad
    with pytest.raises(ModelFormatError, match="1 logits of 10"):
        Sampler(SamplingParams(temperature=temperature))(logits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", -0.1),
        ("temperature", 1e308),
        ("temperature", "warm"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", 2**80),
        ("top_p", 2),
        ("top_p", math.nan),
        ("min_p", -0.01),
        ("min_p", 1.01),
        ("repeat_penalty", 0),
        ("repeat_penalty", math.inf),
        ("repeat_last_n", -2),
        ("seed", -1),
        ("seed", 2**80),
        ("seed", 1.0),
    ],
)
def test_a_parameter_out_of_its_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{name} must be a .*number from"):
        SamplingParams(**{name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    params = SamplingParams(temperature=np.float32(0.5), top_k=np.int64(3), seed=np.uint64(5))
    assert Sampler(params)(np.array([0, 9], dtype=np.float32)) in (0, 1)
