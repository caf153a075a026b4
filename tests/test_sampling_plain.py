"""The usual chain in one compiled step: the same token as link by link, whatever the options."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellama import InvalidRequest, ModelFormatError
from edgellama.draw import MOST_KEPT, draw_all
from edgellama.sampling import SAMPLERS, Sampler, SamplingParams


class Mask:
    """A constraint that excludes ids at random, never all."""

    finished = False

    def __init__(self, share: float) -> None:
        self._share = share
        self._random = np.random.default_rng(5)

    def mask(self, logits: np.ndarray) -> np.ndarray:
        excluded = self._random.random(len(logits)) < self._share
        excluded[self._random.integers(len(logits))] = False
        return np.where(excluded, np.float32(-np.inf), logits)

    def in_time(self, id: int) -> int:
        return id

    def accept(self, id: int) -> None:
        pass

    def undo(self, n: int) -> None:
        pass


def sampler_of(*, link_by_link: bool = False, masked: float = 0.0, **options: object) -> Sampler:
    if link_by_link:  # a link that does nothing, and which no compiled code knows
        options["samplers"] = (*SAMPLERS, lambda ids, logits: logits)
    sampler = Sampler(SamplingParams(**options), constraint=Mask(masked) if masked else None)
    assert (sampler._draw is None) == link_by_link
    return sampler


def random_rows(n: int, size: int, seed: int = 3) -> np.ndarray:
    """(n, size) float32, with equals among them."""
    return np.random.default_rng(seed).normal(0, 3, (n, size)).astype(np.float32).round(1)


# exp differs from numpy's in the last places: a choice in some millions may be another, none of
# these few thousand is.
@settings(deadline=None)  # the first may have to compile it
@given(
    top_k=st.integers(1, MOST_KEPT),
    top_p=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 0.8, 1.0, 5.0, 100.0]),
    size=st.sampled_from([1, 7, 64, 500, 3003]),
    masked=st.sampled_from([0.0, 0.5, 0.99]),
    biases=st.sampled_from([{}, {0: 2.5}, {0: -100, 3: False, 6: 1}]),
)
def test_the_same_tokens_as_link_by_link(
    top_k: int,
    top_p: float,
    min_p: float,
    temperature: float,
    size: int,
    masked: float,
    biases: dict[int, float],
) -> None:
    options = {
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "temperature": temperature,
        "logit_bias": {id: bias for id, bias in biases.items() if id < size},
        "seed": top_k,
        "masked": masked if not biases else 0.0,  # lest together they exclude all
    }
    at_once, twin = sampler_of(**options), sampler_of(link_by_link=True, **options)
    for logits in random_rows(20, size):
        assert at_once(logits) == twin(logits)


def test_the_same_tokens_from_a_large_vocabulary() -> None:
    at_once, twin = sampler_of(seed=1), sampler_of(seed=1, link_by_link=True)
    for logits in random_rows(20, 128_256):
        assert at_once(logits) == twin(logits)


def test_what_is_forbidden_is_not_chosen() -> None:
    at_once, twin = sampler_of(seed=1), sampler_of(seed=1, link_by_link=True)
    for logits in random_rows(50, 100):
        best = logits.argsort()[-3:].tolist()
        chosen = at_once(logits, best)
        assert chosen == twin(logits, best)
        assert chosen not in best


@pytest.mark.parametrize("forbidden", [(), (3,)])
def test_logits_in_double_precision_are_read_as_what_they_are(forbidden: tuple[int, ...]) -> None:
    sampler = sampler_of(temperature=0.0)
    for logits in random_rows(5, 100).astype(np.float64):
        logits[[3, 7]] = 99.0
        assert sampler(logits, forbidden) == (7 if forbidden else 3)


def test_many_at_once_choose_as_each_alone() -> None:
    options = [
        {"seed": 1},
        {"seed": 2, "temperature": 0.0},
        {"seed": 3, "top_k": 100, "top_p": 1.0},
        {"seed": 4, "logit_bias": {5: 9.0, 7: False}},
    ]
    together = [sampler_of(**each) for each in options]
    alone = [sampler_of(**each) for each in options]
    for seed in range(20):
        rows = random_rows(len(options), 1000, seed)
        draws = [s.begin(row.ctypes.data, len(row)) for s, row in zip(together, rows, strict=True)]
        draw_all([draw for draw in draws if draw])
        chosen = [sampler(row) for sampler, row in zip(together, rows, strict=True)]
        assert chosen == [sampler(row) for sampler, row in zip(alone, rows, strict=True)]


@pytest.mark.parametrize("size", [1, 15, 16, 5000, 32_001])
@pytest.mark.parametrize("link_by_link", [False, True])
def test_the_log_probability_is_the_models_own(size: int, link_by_link: bool) -> None:
    params = SamplingParams(
        seed=1,
        top_k=min(40, size),
        logit_bias={0: 3},
        samplers=(*SAMPLERS, lambda ids, logits: logits) if link_by_link else SAMPLERS,
    )
    sampler = Sampler(params, logprobs=True)
    for logits in random_rows(5, size):
        chosen = sampler(logits)
        exact = logits.astype(np.float64)
        log_sum = math.log(np.exp(exact - exact.max()).sum()) + exact.max()
        # Sums of 256 are float32: 256 roundings of 6e-8, of either sign.
        assert sampler.log_sum == pytest.approx(log_sum, abs=1e-6)
        assert sampler.logprob == pytest.approx(exact[chosen] - log_sum, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 20, 32])
def test_what_is_no_number_is_noticed_wherever_it_stands(bad: float, place: int) -> None:
    logits = random_rows(1, 33)[0]
    logits[place] = bad
    for options in ({"top_k": 5}, {"temperature": 0.0}):
        with pytest.raises(ModelFormatError, match="1 logits of 33"):
            sampler_of(**options)(logits)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"top_k": MOST_KEPT + 1},
        {"repeat_penalty": 1.1},
        {"temperature": 0.0, "repeat_penalty": 1.1},
        {"samplers": ("temperature", "top_k")},
        {"samplers": ("top_p", "top_k", "temperature")},
        {"dynatemp_range": 0.5},
        {"mirostat": 2},
        {"xtc_probability": 0.5},
        {"typical_p": 0.5},
        {"samplers": (lambda ids, logits: logits, "top_k")},
    ],
)
def test_any_other_chain_goes_link_by_link(options: dict[str, object]) -> None:
    assert Sampler(SamplingParams(**options))._draw is None


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_nothing_left_is_an_error(temperature: float) -> None:
    options = {"top_k": 1, "logit_bias": {0: False, 1: False}, "temperature": temperature}
    with pytest.raises(InvalidRequest, match="no token is left"):
        sampler_of(**options)(np.zeros(2, np.float32))
