"""A sampler as a whole: what acts in which order, what may not be chosen, what can be undone."""

import numba
import numpy as np
import pytest

from edgellama import InvalidRequest
from edgellama.sampling import (
    SAMPLERS,
    Candidates,
    Sampler,
    SamplingParams,
    log_probability,
    top_k,
    top_logprobs,
)

KEEP_ALL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}


def logits_of(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities, dtype=np.float32))


def random_logits(seed: int, n: int = 300) -> np.ndarray:
    return (3 * np.random.default_rng(seed).normal(size=n)).astype(np.float32)


class Odd:
    """A constraint: odd ids only; remembers what it was told."""

    finished = False

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def mask(self, logits: np.ndarray) -> np.ndarray:
        masked = logits.copy()
        masked[::2] = -np.inf
        return masked

    def in_time(self, id: int) -> int:
        return id

    def accept(self, id: int) -> None:
        self.accepted.append(id)

    def undo(self, n: int) -> None:
        del self.accepted[len(self.accepted) - n :]


# What acts.


def test_the_chain_lists_what_does_something_in_order() -> None:
    assert Sampler(SamplingParams()).chain == ("top_k", "top_p", "min_p", "temperature")
    assert Sampler(SamplingParams(**KEEP_ALL)).chain == ()
    everything = SamplingParams(
        typical_p=0.9,
        top_n_sigma=2,
        xtc_probability=0.5,
        presence_penalty=1,
        dry_multiplier=1,
        dry_sequence_breakers=[],
    )
    assert Sampler(everything).chain == SAMPLERS


def test_breakers_of_dry_need_a_tokenizer() -> None:
    with pytest.raises(InvalidRequest, match="dry_sequence_breakers: a tokenizer is needed"):
        Sampler(SamplingParams(dry_multiplier=1))


def test_samplers_set_the_order_and_what_they_leave_out_does_nothing() -> None:
    logits = logits_of(0.4, 0.3, 0.2, 0.1)
    # A third of the best is 0.13; of the two that top_p leaves, top_k then takes one.
    first = SamplingParams(samplers=["min_p"], min_p=0.333, top_k=1, temperature=5.0, seed=0)
    assert Sampler(first).chain == ("min_p",)
    sampler = Sampler(first)
    assert {sampler(logits) for _ in range(300)} == {0, 1, 2}
    hot = SamplingParams(samplers=["temperature", "min_p"], min_p=0.333, temperature=5.0, seed=0)
    sampler = Sampler(hot)
    assert {sampler(logits) for _ in range(300)} == {0, 1, 2, 3}  # alike, once it is hot


def test_at_temperature_0_nothing_stands_between_the_best_token_and_its_choice() -> None:
    logits = logits_of(0.4, 0.3, 0.2, 0.1)
    params = SamplingParams(
        temperature=0, typical_p=0.1, xtc_probability=1, dynatemp_range=2, mirostat=2
    )
    assert Sampler(params).chain == ()
    assert Sampler(params)(logits) == 0


def test_mirostat_takes_the_place_of_the_filters() -> None:
    params = SamplingParams(mirostat=2, typical_p=0.5, frequency_penalty=1)
    assert Sampler(params).chain == ("penalties", "temperature", "mirostat")


@pytest.mark.parametrize("tau", [3.0, 6.0])
def test_mirostat_steers_the_surprise_of_a_long_text_to_its_aim(tau: float) -> None:
    logits = random_logits(1, 2000) / 2  # 9.2 bits a token, left to itself
    weights = np.exp(logits.astype(np.float64))
    surprise = -np.log2(weights / weights.sum())
    sampler = Sampler(SamplingParams(mirostat=2, mirostat_tau=tau, temperature=1.0, seed=1))
    bits = []
    for _ in range(500):
        kept = surprise <= sampler._memory.mirostat.mu
        bits.append(-np.log2(weights[sampler(logits)] / weights[kept].sum()))
    # mu may move by some bits over the run, at eta 0.1 and 400 tokens some fortieths in the mean.
    assert np.mean(bits[100:]) == pytest.approx(tau, abs=0.05)


def test_xtc_excludes_top_choices_as_often_as_it_should() -> None:
    logits = logits_of(0.5, 0.3, 0.15, 0.05)
    options = {**KEEP_ALL, "xtc_threshold": 0.2}
    n = 4000
    for probability in (0.25, 1.0):
        sampler = Sampler(SamplingParams(xtc_probability=probability, seed=3, **options))
        shares = np.bincount([sampler(logits) for _ in range(n)], minlength=4) / n
        without_top = np.array([0, 0.3, 0.15, 0.05]) / 0.5
        expected = probability * without_top + (1 - probability) * np.exp(logits)
        # Four standard deviations of a share of n draws, as the seed is fixed.
        assert (np.abs(shares - expected) <= 4 * np.sqrt(expected / n)).all()


def test_dynamic_temperature_is_hotter_where_the_model_is_unsure() -> None:
    options = {**KEEP_ALL, "temperature": 1.0, "dynatemp_range": 0.9}
    sure, unsure = logits_of(0.98, 0.02), logits_of(0.6, 0.4)
    sampler = Sampler(SamplingParams(seed=5, **options))
    assert {sampler(sure) for _ in range(300)} == {0}  # 0.02 is seldom; colder it is never
    assert {sampler(unsure) for _ in range(300)} == {0, 1}


# Functions of the caller's own.


def test_a_function_joins_the_chain_where_it_is_named() -> None:
    shapes = []

    def only_the_last(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        shapes.append((len(ids), ids.dtype, logits.dtype))
        return np.where(ids == ids[-1], logits, -np.inf)

    params = SamplingParams(samplers=["top_k", only_the_last, "temperature"], top_k=3, seed=0)
    sampler = Sampler(params)
    assert sampler.chain == ("top_k", "only_the_last", "temperature")
    assert sampler(logits_of(0.1, 0.4, 0.2, 0.3)) == 2  # the third best
    assert shapes == [(3, np.int64, np.float32)]


def test_a_compiled_function_joins_too() -> None:
    @numba.njit  # type: ignore[untyped-decorator]
    def turned_over(ids, logits):  # type: ignore[no-untyped-def]
        return -logits

    params = SamplingParams(samplers=[turned_over], temperature=0)
    assert Sampler(params).chain == ("turned_over",)
    assert Sampler(params)(logits_of(0.4, 0.1, 0.5)) == 1


def test_a_function_sees_no_token_that_is_excluded_and_may_spoil_its_arguments() -> None:
    seen = []

    def spoil(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        seen.append(ids.tolist())
        kept = logits.copy()
        ids[:], logits[:] = 0, np.nan
        return kept

    logits = logits_of(0.4, 0.3, 0.2, 0.1)
    sampler = Sampler(SamplingParams(samplers=[spoil], temperature=0))
    assert [sampler(logits), sampler(logits, [0]), sampler(logits)] == [0, 1, 0]
    assert seen == [[0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (np.zeros(2, np.float32), r"wrong returned float32 \(2,\), expected float32 \(3,\)"),
        (None, "wrong returned object"),
        (np.array([0, np.nan, 0]), "NaN or infinite"),
        (np.array([0, np.inf, 0]), "NaN or infinite"),
        (np.full(3, -np.inf), "no token is left"),
    ],
)
def test_a_function_that_returns_no_logits_is_told_so(result: object, words: str) -> None:
    def wrong(ids: np.ndarray, logits: np.ndarray) -> object:
        return result

    with pytest.raises(InvalidRequest, match=words):
        Sampler(SamplingParams(samplers=[wrong]))(np.zeros(3, np.float32))


# What may not be chosen.


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("k", [0, 3])
def test_forbidden_banned_and_masked_tokens_are_never_chosen(temperature: float, k: int) -> None:
    logits = random_logits(2, 12)
    params = SamplingParams(
        temperature=temperature, top_k=k, seed=1, logit_bias={3: False, 5: -np.inf}
    )
    sampler = Sampler(params, constraint=Odd())
    for _ in range(50):
        assert sampler(logits, {1, 7}) in (9, 11)


@pytest.mark.parametrize("allowed", [[70_000], [5, 6, 7, 99_999]])
def test_of_a_large_vocabulary_a_grammar_may_leave_less_than_top_k(allowed: list[int]) -> None:
    logits = np.full(100_000, -np.inf, np.float32)
    logits[allowed] = 1.0
    kept = top_k(Candidates(np.arange(100_000), logits), 40)
    assert kept.ids.tolist() == allowed


def test_a_bias_is_added_before_anything_else_and_the_logits_stay_as_they_were() -> None:
    logits = logits_of(0.9, 0.05, 0.05)
    before = logits.copy()
    sampler = Sampler(SamplingParams(top_k=1, logit_bias={2: 10}))
    assert sampler(logits) == 2
    np.testing.assert_array_equal(logits, before)


def test_a_ban_lasts_and_what_is_forbidden_is_so_once() -> None:
    logits = logits_of(0.9, 0.06, 0.04)
    sampler = Sampler(SamplingParams(temperature=0, logit_bias={0: False}))
    assert [sampler(logits, [1]), sampler(logits)] == [2, 1]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_when_nothing_is_left_the_request_ends_with_a_clear_error(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, logit_bias={1: False})
    with pytest.raises(InvalidRequest, match="no token is left to choose from"):
        Sampler(params, constraint=Odd())(np.zeros(3, np.float32))


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    sampler = Sampler(SamplingParams(logit_bias={10: 1, 2: 1}))
    with pytest.raises(InvalidRequest, match=r"logit_bias: token 10 .* holds 0 to 9"):
        sampler(np.zeros(10, np.float32))


# Undoing, and random numbers.


def test_undo_forgets_choices_everywhere() -> None:
    logits = logits_of(0.4, 0.3, 0.2, 0.1)
    constraint = Odd()
    params = SamplingParams(temperature=0, repeat_penalty=1.5, repeat_last_n=2)
    sampler = Sampler(params, [0, 2], constraint)
    first = [sampler(logits) for _ in range(4)]
    sampler.undo(3)
    assert sampler.seen == [0, 2, first[0]]
    assert constraint.accepted == first[:1]
    assert [sampler(logits) for _ in range(3)] == first[1:]


def test_undo_takes_back_what_mirostat_learned() -> None:
    logits = random_logits(4)
    params = SamplingParams(mirostat=2, mirostat_tau=2, mirostat_eta=1, seed=0)
    sampler, other = Sampler(params), Sampler(params)
    start = sampler._memory.mirostat.mu
    chosen = [sampler(logits) for _ in range(5)]
    steered = sampler._memory.mirostat.mu
    sampler.undo(5)
    assert start == sampler._memory.mirostat.mu != steered
    assert [other(logits) for _ in range(5)] == chosen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"xtc_probability": 0.5},
        {"mirostat": 2},
        {"top_k": 1},
        {"dynatemp_range": 0.5, "typical_p": 0.9},
    ],
)
def test_a_token_costs_one_random_number_whatever_the_chain(options: dict[str, float]) -> None:
    params = SamplingParams(seed=9, **options)
    sampler, plain = Sampler(params), np.random.Generator(np.random.PCG64(9))
    for _ in range(7):
        sampler(random_logits(5))
        plain.random()
    assert sampler._random.random() == plain.random()


def test_temperature_0_costs_none() -> None:
    sampler = Sampler(SamplingParams(temperature=0, xtc_probability=0.5, seed=9))
    sampler(random_logits(5))
    assert sampler._random.random() == np.random.Generator(np.random.PCG64(9)).random()


# What the model itself says.


@pytest.mark.parametrize("k", [0, 1, 5, 300, 400])
def test_top_logprobs_are_the_best_log_probabilities(k: int) -> None:
    logits = random_logits(6)
    best = sorted(range(300), key=lambda id: (-logits[id], id))[:k]
    assert top_logprobs(logits, k) == tuple((id, log_probability(logits, id)) for id in best)


def test_top_logprobs_name_the_lower_id_first_among_equals() -> None:
    assert [id for id, _ in top_logprobs(np.array([1, 2, 1, 2, 1], np.float32), 3)] == [1, 3, 0]
