"""The options of a request: their defaults, their limits, and what is said of what passes them."""

import dataclasses
import math
from typing import Any

import pytest

from edgellama import InvalidRequest
from edgellama.sampling import SAMPLERS, SamplingOptions, SamplingParams
from edgellama.sampling.chain import LINKS

FIELDS = {field.name: field for field in dataclasses.fields(SamplingParams)}
NUMBERS = [name for name, field in FIELDS.items() if field.metadata["kind"] in (float, int)]


def test_defaults_are_those_of_llama_cpp() -> None:
    defaults = {name: field.default for name, field in FIELDS.items()}
    assert defaults == {
        "temperature": 0.8,
        "dynatemp_range": 0.0,
        "dynatemp_exponent": 1.0,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "typical_p": 1.0,
        "top_n_sigma": -1.0,
        "xtc_probability": 0.0,
        "xtc_threshold": 0.1,
        "repeat_penalty": 1.0,
        "repeat_last_n": 64,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "dry_multiplier": 0.0,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_penalty_last_n": 64,
        "dry_sequence_breakers": ("\n", ":", '"', "*"),
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
        "logit_bias": (),
        "banned_strings": (),
        "samplers": SAMPLERS,
        "seed": None,
    }


def test_the_keyword_arguments_are_the_fields() -> None:
    assert SamplingOptions.__annotations__.keys() == FIELDS.keys()


def test_every_name_in_samplers_is_a_link() -> None:
    assert {*SAMPLERS, "mirostat"} == LINKS.keys()


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_explained_in_a_line_that_fits_a_help_text(name: str) -> None:
    help = FIELDS[name].metadata["help"]
    assert 10 <= len(help) <= 90
    assert "\n" not in help
    assert not help.endswith(".")


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_may_be_at_its_limits_and_not_beyond(name: str) -> None:
    metadata = FIELDS[name].metadata
    for value in (metadata["low"], metadata["high"]):
        assert getattr(SamplingParams(**{name: value}), name) == value
    for value in (metadata["low"] - 1, metadata["high"] + 1, 10**5000, -(10**5000)):
        with pytest.raises(InvalidRequest, match=f"^{name} must be "):
            SamplingParams(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", [1], 1j])
def test_what_is_no_number_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name} must be "):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


def test_mirostat_1_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="mirostat must be 0 or 2"):
        SamplingParams(mirostat=1)


@pytest.mark.parametrize("given", [{7: 1, 3: -0.5, 9: False}, [(7, 1), [3, -0.5], (9, -math.inf)]])
def test_logit_bias_is_pairs_by_rising_id(given: Any) -> None:
    assert SamplingParams(logit_bias=given).logit_bias == ((3, -0.5), (7, 1.0), (9, -math.inf))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({-1: 1.0}, "-1 is not a token id"),
        ({"7": 1.0}, "'7' is not a token id"),
        ({True: 1.0}, "True is not a token id"),
        ({2**40: 1.0}, "is not a token id"),
        ({7: True}, "token 7 must be a number from -100 to 100, or False"),
        ({7: 101}, "token 7 must be a number"),
        ({7: math.inf}, "token 7 must be a number"),
        ({7: math.nan}, "token 7 must be a number"),
        ({7: "much"}, "token 7 must be a number"),
        ([(7, 1), (7, 2)], "token 7 twice"),
        ([7], "must map token ids to numbers"),
        ("7", "must map token ids to numbers"),
        (5, "must map token ids to numbers"),
        (dict.fromkeys(range(1025), 0.0), "1,025 tokens; 1,024 are allowed"),
    ],
)
def test_a_logit_bias_that_is_none_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^logit_bias.*{words}"):
        SamplingParams(logit_bias=given)


@pytest.mark.parametrize("name", ["banned_strings", "dry_sequence_breakers"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("abc", "must be a list of strings"),
        ([1], "must be a list of strings"),
        ([""], "1 to [0-9]+ bytes, not 0"),
        (["é" * 200], "bytes, not 400"),
        (["\ud800"], "lone surrogate"),
        (["a"] * 129, "129 strings; 128 are allowed"),
    ],
)
def test_strings_that_are_none_or_too_many_are_refused(name: str, given: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}.*{words}"):
        SamplingParams(**{name: given})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("top_k", "must be a list"),
        (["top_q"], "'top_q' is unknown; expected a function or one of penalties, dry"),
        ([1], "1 is unknown"),
        (["top_k", "top_p", "top_k"], "top_k twice"),
        ([len] * 33, "33 steps; 32 are allowed"),
    ],
)
def test_samplers_that_are_unknown_are_refused(given: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^samplers.*{words}"):
        SamplingParams(samplers=given)


def test_params_are_a_key_and_compare_by_what_they_say() -> None:
    a = SamplingParams(logit_bias={1: 2}, banned_strings=["x"], samplers=["top_k", len])
    b = SamplingParams(logit_bias=[(1, 2.0)], banned_strings=("x",), samplers=("top_k", len))
    assert {a: 1}[b] == 1
    assert a != SamplingParams()
