"""Links that drop candidates: top_k, top_p, min_p, typical, top_n_sigma, xtc.

Each keeps one candidate at least. The definitions are llama.cpp's, with sums in float64.
"""

import math

import numpy as np
from numpy.typing import NDArray

from .candidates import Candidates, largest, log_softmax, softmax_weights

_BLOCK = 64  # neighbouring logits of which the largest is looked at first
_LOWEST = np.finfo(np.float32).min
_HEAD = 1024  # top_p looks at this many of the largest first: a long tail is rarely worth sorting


def top_k(candidates: Candidates, k: int) -> Candidates:
    """The k largest logits in falling order, the lower id first among equals; k = 0 keeps all.

    Equals keep their order, so the ids must rise where that matters. Of more than k candidates it
    keeps none of logit -inf.
    """
    if k == 0 or k > len(candidates.ids):
        return candidates
    return candidates.at(places_of_largest(candidates.logits, k))


def places_of_largest(logits: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of the k largest in falling order, the earlier first among equals.

    Fewer where most logits are -inf, as a grammar leaves them: they are not worth sorting.
    """
    if k >= len(logits):
        return (-logits).argsort(kind="stable")
    places = (logits >= max(_no_more_than_kth(logits, k), _LOWEST)).nonzero()[0]
    order: NDArray[np.int64] = places[(-logits[places]).argsort(kind="stable")[:k]]
    return order


def _no_more_than_kth(logits: NDArray[np.float32], k: int) -> np.float32:
    """A number not above the k-th largest logit, and above nearly all others.

    The k-th largest among the largest of each 64 serves: 0.15 ms where a vocabulary of 128k takes
    0.36 ms to partition and 20 to sort.
    """
    n_blocks = len(logits) // _BLOCK
    sieve = logits
    if k <= n_blocks:
        sieve = logits[: n_blocks * _BLOCK].reshape(n_blocks, _BLOCK).max(axis=1)
    kth: np.float32 = np.partition(sieve, -k)[-k]
    return kth


def top_p(candidates: Candidates, p: float) -> Candidates:
    """The fewest most likely tokens whose probabilities reach p, one at least; p = 1 keeps all."""
    if p >= 1:
        return candidates
    n = len(candidates.ids)
    weights = softmax_weights(candidates.logits)
    target = p * weights.sum()
    size = min(_HEAD, n)
    while True:
        places = places_of_largest(candidates.logits, size)
        mass = weights[places].cumsum()
        if mass[-1] >= target or size == n:
            return candidates.at(places[: int(mass.searchsorted(target)) + 1])
        size = min(8 * size, n)


def min_p(candidates: Candidates, p: float) -> Candidates:
    """The tokens at least p times as likely as the likeliest; p = 0 keeps all."""
    if p <= 0:
        return candidates
    logits = candidates.logits
    return candidates.at(logits >= largest(logits) + math.log(p))


def typical(candidates: Candidates, p: float) -> Candidates:
    """The fewest tokens of most typical surprise whose probabilities pass p; p = 1 keeps all.

    Surprise is -log(probability), most typical the one nearest to its mean, the entropy
    (arXiv:2202.00666). The likeliest token may go.
    """
    if p >= 1:
        return candidates
    surprises = -log_softmax(candidates.logits)
    probabilities = np.exp(-surprises)
    entropy = float(probabilities @ surprises)
    order = np.abs(surprises - entropy).argsort(kind="stable")
    count = int(probabilities[order].cumsum().searchsorted(p, side="right")) + 1
    return candidates.at(np.sort(order[:count]))


def top_n_sigma(candidates: Candidates, n: float) -> Candidates:
    """The tokens whose logits are at most n standard deviations below the best; n <= 0 keeps all.

    The deviation is that of all candidates' logits (arXiv:2411.07641).
    """
    if n <= 0:
        return candidates
    logits = candidates.logits
    return candidates.at(logits >= largest(logits) - n * float(logits.std(dtype=np.float64)))


def xtc(candidates: Candidates, threshold: float) -> Candidates:
    """Exclude top choices: of the tokens as probable as `threshold`, only the least likely stays.

    Nothing changes where fewer than two are. How often it is done is the caller's chance to take
    (https://github.com/oobabooga/text-generation-webui/pull/6335).
    """
    weights = softmax_weights(candidates.logits)
    top = weights >= threshold * weights.sum()
    places = top.nonzero()[0]
    if len(places) < 2:
        return candidates
    top[places[weights[places].argmin()]] = False
    return candidates.at(~top)
