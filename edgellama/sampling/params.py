"""How one request chooses its tokens: every option, its default, its range and what it does.

`SamplingParams` is one table. A field's metadata holds `kind` (float, int, tuple or dict), `low`
and `high` of a number, and `help` in one line; commands and servers build their options from it:

    for option in dataclasses.fields(SamplingParams):
        option.name, option.default, option.metadata["help"]

Names, defaults and order are llama.cpp's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from edgellama.errors import InvalidRequest

# The links of the chain, in llama.cpp's order.
SAMPLERS = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)

# A link of the caller's own, plain Python or numba.njit:
# (ids (n,) int64, logits (n,) float32) -> logits (n,), -inf for what may not be chosen.
LogitsFunction = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.floating[Any]]]
LogitBias = Mapping[int, float] | Sequence[tuple[int, float]]

MAX_LOGIT_BIAS = 1024  # ids
MAX_STRINGS = 128  # banned strings, or breakers
MAX_STRING_BYTES = 256  # of a banned string
MAX_BREAKER_BYTES = 40  # of a breaker, llama.cpp's limit
MAX_SAMPLERS = 32


def _real(default: float, low: float, high: float, help: str) -> Any:
    return field(default=default, metadata={"kind": float, "low": low, "high": high, "help": help})


def _int(default: int | None, low: int, high: int, help: str) -> Any:
    return field(default=default, metadata={"kind": int, "low": low, "high": high, "help": help})


def _help(kind: type, help: str) -> Mapping[str, Any]:
    return {"kind": kind, "help": help}


_MOST = 2**31 - 1  # of a count: what llama.cpp's int32 holds


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The options of one request, checked, hashable.

    Raises `InvalidRequest`, naming the parameter, for what is no number or out of its range, for a
    list that is too long, and for unknown names.
    """

    temperature: float = _real(0.8, 0, 100, "0 always takes the most likely token")
    dynatemp_range: float = _real(
        0.0, 0, 100, "let temperature vary by so much, hotter where the model is unsure; 0: fixed"
    )
    dynatemp_exponent: float = _real(
        1.0, 0, 100, "how the model's doubt, 0 to 1, becomes temperature: doubt to this power"
    )
    top_k: int = _int(40, 0, _MOST, "choose among the K most likely tokens; 0: among all")
    top_p: float = _real(0.95, 0, 1, "choose among the fewest that hold this probability; 1: all")
    min_p: float = _real(
        0.05, 0, 1, "drop tokens less likely than this times the likeliest; 0: none"
    )
    typical_p: float = _real(
        1.0, 0, 1, "keep the tokens of most typical surprise that hold this probability; 1: all"
    )
    top_n_sigma: float = _real(
        -1.0, -1, 100, "drop logits this many standard deviations below the best; -1: none"
    )
    xtc_probability: float = _real(
        0.0, 0, 1, "how often the top choices are excluded, so that a rarer one is taken; 0: never"
    )
    xtc_threshold: float = _real(
        0.1, 0, 1, "probability that makes a token a top choice; above 0.5: none is excluded"
    )
    repeat_penalty: float = _real(1.0, 0.01, 100, "make tokens seen lately less likely; 1: do not")
    repeat_last_n: int = _int(
        64, -1, _MOST, "how many tokens back the three penalties look; -1: all, 0: none"
    )
    presence_penalty: float = _real(
        0.0, -100, 100, "take this off the logit of each token seen lately"
    )
    frequency_penalty: float = _real(
        0.0, -100, 100, "take this off the logit of a token for each time it was seen lately"
    )
    dry_multiplier: float = _real(
        0.0, 0, 100, "strength of the penalty on repeating whole sequences (DRY); 0: none"
    )
    dry_base: float = _real(
        1.75, 1, 100, "DRY: the penalty grows by this factor with each token of the repeat"
    )
    dry_allowed_length: int = _int(2, 1, _MOST, "DRY: repeats shorter than so many tokens are free")
    dry_penalty_last_n: int = _int(
        64, -1, _MOST, "DRY: how many tokens back repeats are looked for; -1: all, 0: none"
    )
    dry_sequence_breakers: tuple[str, ...] = field(
        default=("\n", ":", '"', "*"),
        metadata=_help(tuple, "DRY: texts that no repeat reaches across"),
    )
    mirostat: int = _int(
        0, 0, 2, "2 steers the surprise of the text, in place of all filters; 0: off"
    )
    mirostat_tau: float = _real(5.0, 0, 100, "mirostat: the surprise to aim at, in bits a token")
    mirostat_eta: float = _real(0.1, 0, 10, "mirostat: how fast it steers")
    logit_bias: LogitBias = field(
        default=(),
        metadata=_help(dict, "add to the logit of token ids: -100 to 100; False bans the token"),
    )
    banned_strings: tuple[str, ...] = field(
        default=(), metadata=_help(tuple, "texts that no answer may contain")
    )
    samplers: tuple[str | LogitsFunction, ...] = field(
        default=SAMPLERS,
        metadata=_help(tuple, "the steps of the chain, in order; what is left out does nothing"),
    )
    seed: int | None = _int(
        None, 0, 2**64 - 1, "the same seed gives the same text; none: another one each time"
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            name, value, kind = option.name, getattr(self, option.name), option.metadata["kind"]
            if value is option.default:
                continue
            if kind in (float, int):
                value = _number(name, value, option.metadata)
            elif name == "logit_bias":
                value = _biases(value)
            elif name == "samplers":
                value = _samplers(value)
            else:
                most = MAX_STRING_BYTES if name == "banned_strings" else MAX_BREAKER_BYTES
                value = _strings(name, value, most)
            object.__setattr__(self, name, value)
        if self.mirostat == 1:
            raise InvalidRequest("mirostat must be 0 or 2, not 1: only version 2 is offered")


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingParams` as keyword arguments."""

    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    repeat_penalty: float
    repeat_last_n: int
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    logit_bias: LogitBias
    banned_strings: Sequence[str]
    samplers: Sequence[str | LogitsFunction]
    seed: int | None


def _number(name: str, value: Any, metadata: Mapping[str, Any]) -> float | int:
    """`value` as a plain float or int, if it is one in its range."""
    kind, low, high = metadata["kind"], metadata["low"], metadata["high"]
    wanted, words = (Integral, "whole number") if kind is int else (Real, "number")
    # NaN is in no range, infinity in none of these.
    if isinstance(value, bool) or not isinstance(value, wanted) or not low <= value <= high:
        limits = f"{low} to {high}" if kind is int else f"{low:g} to {high:g}"
        raise InvalidRequest(f"{name} must be a {words} from {limits}, not {_found(value)}")
    plain: float | int = kind(value)
    return plain


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    """(id, bias) pairs by rising id; -inf where False stood."""
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple) or any(
        not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs
    ):
        raise InvalidRequest(f"logit_bias must map token ids to numbers, not {_found(value)}")
    if len(pairs) > MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"logit_bias holds {len(pairs):,} tokens; {MAX_LOGIT_BIAS:,} are allowed"
        )
    biases: dict[int, float] = {}
    for key, bias in pairs:
        if isinstance(key, bool) or not isinstance(key, Integral) or not 0 <= int(key) <= _MOST:
            raise InvalidRequest(f"logit_bias: {_found(key)} is not a token id (0, 1, 2, ...)")
        id = int(key)
        if id in biases:
            raise InvalidRequest(f"logit_bias names token {id} twice")
        biases[id] = -math.inf if bias is False else _bias(id, bias)
    return tuple(sorted(biases.items()))


def _bias(id: int, bias: Any) -> float:
    is_number = isinstance(bias, Real) and not isinstance(bias, bool)
    if is_number and (-100 <= bias <= 100 or bias == -math.inf):
        return float(bias)
    raise InvalidRequest(
        f"logit_bias of token {id} must be a number from -100 to 100, or False to ban it,"
        f" not {_found(bias)}"
    )


def _strings(name: str, value: object, most_bytes: int) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise InvalidRequest(f"{name} must be a list of strings, not {_found(value)}")
    if len(value) > MAX_STRINGS:
        raise InvalidRequest(f"{name} holds {len(value):,} strings; {MAX_STRINGS} are allowed")
    for text in value:
        try:
            n_bytes = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidRequest(f"{name}: {_found(text)} holds a lone surrogate") from None
        if not 1 <= n_bytes <= most_bytes:
            raise InvalidRequest(
                f"{name}: a string must have 1 to {most_bytes} bytes, not {n_bytes:,}"
            )
    return tuple(value)


def _samplers(value: object) -> tuple[str | LogitsFunction, ...]:
    names = ", ".join(SAMPLERS)
    if not isinstance(value, list | tuple):
        raise InvalidRequest(f"samplers must be a list of {names}, not {_found(value)}")
    if len(value) > MAX_SAMPLERS:
        raise InvalidRequest(f"samplers holds {len(value):,} steps; {MAX_SAMPLERS} are allowed")
    for step in value:
        if not callable(step) and not (isinstance(step, str) and step in SAMPLERS):
            raise InvalidRequest(
                f"samplers: {_found(step)} is unknown; expected a function or one of {names}"
            )
        if isinstance(step, str) and value.count(step) > 1:
            raise InvalidRequest(f"samplers names {step} twice")
    return tuple(value)


def _found(value: object) -> str:
    """`value` for an error message: in short, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # an int of 5,000 digits, or somebody's own class
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
