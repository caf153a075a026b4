"""The chain: a table of links by name, and which of them act for given parameters.

    penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, temperature

is llama.cpp's order; `samplers` sets another. Two parameters change what is in it:

    temperature 0   the most likely token wins: nothing that only drops others is needed, and what
                    could drop the best itself (typ_p, xtc) does not act
    mirostat 2      takes the place of all filters, behind the rest
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edgellama.errors import InvalidRequest

from .candidates import Candidates, drop_excluded
from .dry import dry
from .filters import min_p, top_k, top_n_sigma, top_p, typical, xtc
from .memory import Memory
from .mirostat import mirostat
from .params import LogitsFunction, SamplingParams
from .penalties import penalize, penalizes
from .temperature import scale, scale_by_entropy


class Link(NamedTuple):
    """One step of the chain."""

    acts: Callable[[SamplingParams], bool]  # whether it does anything
    apply: Callable[[Candidates, SamplingParams, Memory], Candidates]


def _penalize(c: Candidates, p: SamplingParams, m: Memory) -> Candidates:
    counts = m.recent.counts
    return penalize(c, counts, p.repeat_penalty, p.presence_penalty, p.frequency_penalty)


def _dry(c: Candidates, p: SamplingParams, m: Memory) -> Candidates:
    return dry(c, m.repeats(), p.dry_multiplier, p.dry_base, p.dry_allowed_length)


def _temper(c: Candidates, p: SamplingParams, m: Memory) -> Candidates:
    if p.dynatemp_range == 0:
        return scale(c, p.temperature)
    return scale_by_entropy(c, p.temperature, p.dynatemp_range, p.dynatemp_exponent)


LINKS = {
    "penalties": Link(penalizes, _penalize),
    "dry": Link(lambda p: p.dry_multiplier > 0 and p.dry_penalty_last_n != 0, _dry),
    "top_n_sigma": Link(lambda p: p.top_n_sigma > 0, lambda c, p, m: top_n_sigma(c, p.top_n_sigma)),
    "top_k": Link(lambda p: p.top_k > 0, lambda c, p, m: top_k(c, p.top_k)),
    "typ_p": Link(lambda p: p.typical_p < 1, lambda c, p, m: typical(c, p.typical_p)),
    "top_p": Link(lambda p: p.top_p < 1, lambda c, p, m: top_p(c, p.top_p)),
    "min_p": Link(lambda p: p.min_p > 0, lambda c, p, m: min_p(c, p.min_p)),
    "xtc": Link(
        lambda p: p.xtc_probability > 0 and p.xtc_threshold <= 0.5,
        lambda c, p, m: xtc(c, p.xtc_threshold) if m.excludes_top else c,
    ),
    "temperature": Link(lambda p: p.temperature != 1 or p.dynatemp_range > 0, _temper),
    "mirostat": Link(lambda p: p.mirostat == 2, lambda c, p, m: mirostat(c, m.mirostat.mu)),
}
_FILTERS = ("top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc")
_BEFORE_DROPPING = ("penalties", "dry", "top_k")  # these take -inf for what it is
_KEEP_THE_BEST = ("top_n_sigma", "top_k", "top_p", "min_p")


def active_steps(params: SamplingParams) -> list[str | LogitsFunction]:
    """What of `params.samplers` does something, in order."""
    steps = [s for s in params.samplers if not isinstance(s, str) or LINKS[s].acts(params)]
    if params.temperature == 0:
        steps = [s for s in steps if s not in ("typ_p", "xtc", "temperature")]
        while steps and steps[-1] in _KEEP_THE_BEST:
            steps.pop()
    elif params.mirostat:
        steps = [s for s in steps if s not in _FILTERS] + ["mirostat"]
    return steps


def run_function(function: LogitsFunction, candidates: Candidates) -> Candidates:
    """A link of the caller's own. It gets copies: what it does to them harms nobody.

    Raises InvalidRequest if it returns anything but one number, or -inf, for each candidate.
    """
    ids, logits = candidates
    changed = np.asarray(function(ids.copy(), logits.copy()))
    name = step_name(function)
    if changed.shape != logits.shape or changed.dtype.kind not in "fiu":
        raise InvalidRequest(
            f"samplers: {name} returned {changed.dtype} {changed.shape}, expected float32"
            f" {logits.shape}"
        )
    changed = changed.astype(np.float32)
    if not (changed < np.inf).all():
        raise InvalidRequest(f"samplers: {name} returned logits that are NaN or infinite")
    return drop_excluded(Candidates(ids, changed))


def build(params: SamplingParams, memory: Memory) -> list[Callable[[Candidates], Candidates]]:
    """The active steps as functions of the candidates alone, logits of -inf dropped on the way.

    That is done late: to make a list of the rest takes longer than to find the largest among all.
    """
    steps = active_steps(params)
    n_before = next((i for i, s in enumerate(steps) if s not in _BEFORE_DROPPING), len(steps))
    chain = [_bind(step, params, memory) for step in steps]
    if params.temperature == 0 and n_before == len(steps):
        return chain  # the largest is none of them anyway
    return [*chain[:n_before], drop_excluded, *chain[n_before:]]


def _bind(
    step: str | LogitsFunction, params: SamplingParams, memory: Memory
) -> Callable[[Candidates], Candidates]:
    if not isinstance(step, str):
        return lambda candidates: run_function(step, candidates)
    apply = LINKS[step].apply
    return lambda candidates: apply(candidates, params, memory)


def step_name(step: str | LogitsFunction) -> str:
    return step if isinstance(step, str) else getattr(step, "__name__", type(step).__name__)
