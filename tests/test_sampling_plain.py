"""The usual chain in one go: the same token as link by link, whatever the options."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellama import InvalidRequest
from edgellama.sampling import Sampler, SamplingParams


def tokens(params: SamplingParams, *, plain: bool, n: int, size: int, masked: float) -> list[int]:
    sampler = Sampler(params)
    assert sampler._is_plain
    sampler._is_plain = plain
    rng = np.random.default_rng(3)
    chosen = []
    for _ in range(n):
        logits = rng.normal(0, 3, size).astype(np.float32).round(1)  # with equals among them
        logits[rng.random(size) < masked] = -np.inf
        if (logits == -np.inf).all():
            logits[0] = 0
        chosen.append(sampler._draw(sampler._candidates(logits, ())))
    return chosen


@given(
    top_k=st.integers(1, 80),
    top_p=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    temperature=st.sampled_from([1e-9, 0.3, 0.8, 1.0, 5.0, 100.0]),
    size=st.sampled_from([1, 7, 64, 500, 3000]),
    masked=st.sampled_from([0.0, 0.5, 0.99]),
)
def test_the_same_tokens_as_link_by_link(
    top_k: int, top_p: float, min_p: float, temperature: float, size: int, masked: float
) -> None:
    params = SamplingParams(
        top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature, seed=top_k
    )
    at_once = tokens(params, plain=True, n=20, size=size, masked=masked)
    assert at_once == tokens(params, plain=False, n=20, size=size, masked=masked)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"repeat_penalty": 1.1},
        {"samplers": ("temperature", "top_k")},
        {"samplers": ("top_p", "top_k", "temperature")},
        {"dynatemp_range": 0.5},
        {"mirostat": 2},
        {"xtc_probability": 0.5},
        {"typical_p": 0.5},
        {"temperature": 0.0},
        {"samplers": (lambda ids, logits: logits, "top_k")},
    ],
)
def test_any_other_chain_goes_link_by_link(options: dict[str, object]) -> None:
    assert not Sampler(SamplingParams(**options))._is_plain


def test_nothing_left_is_an_error() -> None:
    sampler = Sampler(SamplingParams(logit_bias={0: False, 1: False}))
    with pytest.raises(InvalidRequest, match="no token is left"):
        sampler(np.zeros(2, np.float32))
