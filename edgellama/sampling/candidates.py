"""The tokens still in the race: what every link of the chain takes and gives."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgellama.errors import InvalidRequest


class Candidates(NamedTuple):
    """Ids without repetition, in any order, one at least, and their logits.

    A logit is finite, or -inf where a token may not be chosen; `drop_excluded` drops those, and
    only penalties, dry and top_k work before it.
    """

    ids: NDArray[np.int64]  # (n,)
    logits: NDArray[np.float32]  # (n,)

    def at(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> "Candidates":
        """Those at `places`, or where a mask is true."""
        return Candidates(self.ids[places], self.logits[places])

    def find(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of each of `tokens`, -1 for those that are no candidates: (len(tokens),)."""
        n = len(self.ids)
        places = np.minimum(tokens, n - 1)
        if (self.ids[places] == tokens).all():  # as it is before any filter
            return places
        order = self.ids.argsort(kind="stable")
        places = order[self.ids.searchsorted(tokens, sorter=order).clip(max=n - 1)]
        return np.where(self.ids[places] == tokens, places, -1)


def largest(logits: NDArray[np.float32]) -> np.float32:
    """max(): in a third of its time where there are few."""
    best: np.float32 = logits[logits.argmax()]
    return best


def drop_excluded(candidates: Candidates) -> Candidates:
    """The candidates without those of logit -inf. Raises InvalidRequest if none is left."""
    allowed = candidates.logits > -np.inf
    n_allowed = np.count_nonzero(allowed)
    if n_allowed == 0:
        raise nothing_left()
    if n_allowed == len(allowed):
        return candidates
    return candidates.at(allowed)


def nothing_left() -> InvalidRequest:
    return InvalidRequest(
        "no token is left to choose from: grammar, logit_bias, banned_strings and samplers"
        " together exclude them all"
    )


def softmax_weights(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """exp(logits - max): (n,), 1 for the likeliest; exp in float32, to be summed in float64."""
    weights: NDArray[np.float32] = np.exp(logits - largest(logits))
    return weights.astype(np.float64)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities: (n,) float64, finite."""
    shifted: NDArray[np.float64] = (logits - largest(logits)).astype(np.float64)
    return shifted - math.log(np.exp(shifted).sum())
