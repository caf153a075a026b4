"""Choosing a type for each tensor: the least loss that fits a size, or the least size for a loss.

Each tensor has candidates, a size and a cost each. Of a tensor only those on the lower convex hull
are ever right; walking all hulls from the smallest files up, always the step that gains most for
its bytes, passes through the best choice of every size it stops at (Shoham and Gersho 1988). What
the last step leaves over is filled with smaller steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from .errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Candidate:
    """A type that a tensor may have."""

    type: str
    n_bytes: int
    cost: float  # nats a token


Tensors = Mapping[str, list[Candidate]]  # by name; at least one candidate each
Choice = dict[str, Candidate]


def choose_by_size(tensors: Tensors, n_bytes: int) -> Choice:
    """The candidates with the least cost together that fit into n_bytes.

    Raises InvalidRequest, with the least size, if none do.
    """
    least = sum(min(c.n_bytes for c in candidates) for candidates in tensors.values())
    if least > n_bytes:
        raise InvalidRequest(
            f"{n_bytes:,} bytes are too few, the smallest types need {least:,}; take a smaller"
            " model"
        )
    return _walk(tensors, lambda choice: sum(c.n_bytes for c in choice.values()) <= n_bytes)


def choose_by_cost(tensors: Tensors, cost: float) -> Choice:
    """The smallest candidates whose costs add up to no more than `cost`.

    Raises InvalidRequest, with the least cost, if none do.
    """
    least = sum(min(c.cost for c in candidates) for candidates in tensors.values())
    if least > cost:
        raise InvalidRequest(
            f"a loss of {cost:g} is not to be had, the most exact types lose {least:.2g}"
        )
    choice = _smallest(tensors)
    for name, candidate in _steps(tensors):
        if sum(c.cost for c in choice.values()) <= cost:
            break
        choice[name] = candidate
    for name, candidates in tensors.items():  # what the last step gained too much
        for smaller in sorted(candidates, key=lambda c: c.n_bytes):
            tried = choice | {name: smaller}
            if sum(c.cost for c in tried.values()) <= cost:
                choice = tried
                break
    return choice


def _walk(tensors: Tensors, fits: Callable[[Choice], bool]) -> Choice:
    """From the smallest choice up all steps that fit, the best first.

    A step that does not fit ends the way of its tensor.
    """
    choice = _smallest(tensors)
    ended: set[str] = set()
    for name, candidate in _steps(tensors):
        if name in ended:
            continue
        if fits(choice | {name: candidate}):
            choice[name] = candidate
        else:
            ended.add(name)
    return choice


def _smallest(tensors: Tensors) -> Choice:
    return {name: hull(candidates)[0] for name, candidates in tensors.items()}


def _steps(tensors: Tensors) -> list[tuple[str, Candidate]]:
    """All steps along all hulls, the most gained for a byte first; of equals by name."""
    steps = []
    for name, candidates in tensors.items():
        corners = hull(candidates)
        for low, high in pairwise(corners):
            gain = (low.cost - high.cost) / (high.n_bytes - low.n_bytes)
            steps.append((-gain, name, high.n_bytes, high))
    return [(name, candidate) for _, name, _, candidate in sorted(steps, key=lambda s: s[:3])]


def hull(candidates: list[Candidate]) -> list[Candidate]:
    """The corners of the lower convex hull of cost over size, the smallest first."""
    corners: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (c.n_bytes, c.cost)):
        if corners and c.cost >= corners[-1].cost:
            continue
        while len(corners) > 1 and _above(corners[-2], corners[-1], c):
            corners.pop()
        corners.append(c)
    return corners


def _above(a: Candidate, b: Candidate, c: Candidate) -> bool:
    """Whether b lies on or above the line from a to c."""
    to_b = (a.cost - b.cost) * (c.n_bytes - a.n_bytes)
    to_c = (a.cost - c.cost) * (b.n_bytes - a.n_bytes)
    return to_b <= to_c
