"""What the model itself says, before any option: checks, and logarithms of probabilities."""

import math

import numpy as np
from numpy.typing import NDArray

from edgellama.errors import ModelFormatError

from .candidates import Candidates, largest
from .filters import top_k

_PIECE = 16384  # logits: what is computed of them stays in the cache, and needs no fresh memory


def check_finite(logits: NDArray[np.float32]) -> None:
    """Refuse NaN and infinity with `ModelFormatError`: never sample from them."""
    bad = logits.size - np.count_nonzero(np.isfinite(logits))
    if bad:
        raise ModelFormatError(
            f"the model computed {bad:,} logits of {logits.size:,} that are not finite numbers; "
            "its weights are damaged: convert or download it again"
        )


def log_probability(logits: NDArray[np.float32], token: int) -> float:
    """Natural logarithm of the probability that the model itself gives to `token`."""
    return float(logits[token]) - log_sum(logits)


def top_logprobs(
    logits: NDArray[np.float32], k: int, log_of_sum: float | None = None
) -> tuple[tuple[int, float], ...]:
    """(id, log probability) of the k likeliest, best first, the lower id first among equals.

    log_of_sum: what `log_sum` says of them, if that is known already.
    """
    if k < 1:
        return ()
    best = top_k(Candidates(np.arange(len(logits)), logits), min(k, len(logits)))
    if log_of_sum is None:
        log_of_sum = log_sum(logits)
    return tuple(
        (id, logit - log_of_sum)
        for id, logit in zip(best.ids.tolist(), best.logits.tolist(), strict=True)
    )


def log_sum(logits: NDArray[np.float32]) -> float:
    """log(sum(exp(logits))): exp in float32, the sum in float64."""
    best, total = largest(logits), 0.0
    for start in range(0, len(logits), _PIECE):
        total += float(np.exp(logits[start : start + _PIECE] - best).sum(dtype=np.float64))
    return float(best) + math.log(total)
