"""From logits to the next token.

    logits (vocab_size,) --repeat penalty--> top_k --> top_p --> min_p --> temperature --> one id

Each step is a pure function; the order is llama.cpp's, and so are the defaults. At temperature 0
the largest logit wins, the lowest id among equals. A request owns its random generator: the same
seed, prompt and model give the same tokens, whatever else runs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgellama.errors import ModelFormatError

from .params import SamplingParams

_BLOCK = 64  # neighbouring logits of which top_k looks at the largest first
_PIECE = 16384  # logits: what is computed of them stays in the cache, and needs no fresh memory
_HEAD = 1024  # top_p looks at this many of the largest first: a long tail is rarely worth sorting


class Candidates(NamedTuple):
    """The tokens still in the race."""

    ids: NDArray[np.int64]  # (n,)
    logits: NDArray[np.float32]  # (n,)


def penalize_repeats(
    logits: NDArray[np.float32], recent: Sequence[int], penalty: float
) -> NDArray[np.float32]:
    """Make each id of `recent` less likely, once: (vocab_size,) float32, a copy.

    A positive logit is divided by the penalty, a negative one multiplied (CTRL, arXiv:1909.05858,
    with llama.cpp's care for the sign).
    """
    ids = np.unique(np.asarray(recent, dtype=np.int64))
    seen = logits[ids]
    penalized = logits.copy()
    penalized[ids] = np.where(seen > 0, seen / np.float32(penalty), seen * np.float32(penalty))
    return penalized


def top_k(candidates: Candidates, k: int) -> Candidates:
    """The k largest logits in falling order, the lower id first among equals; k = 0 keeps all."""
    ids, logits = candidates
    if k == 0 or k > len(ids):
        return candidates
    places = np.flatnonzero(logits >= _no_more_than_kth(logits, k))
    places = places[np.argsort(-logits[places], kind="stable")[:k]]
    return Candidates(ids[places], logits[places])


def _no_more_than_kth(logits: NDArray[np.float32], k: int) -> np.float32:
    """A number not above the k-th largest logit, and above nearly all others.

    The k-th largest among the largest of each 64 serves: 0.15 ms where a vocabulary of 128k takes
    0.36 ms to partition and 20 to sort.
    """
    n_blocks = len(logits) // _BLOCK
    largest = logits
    if k <= n_blocks:
        largest = logits[: n_blocks * _BLOCK].reshape(n_blocks, _BLOCK).max(axis=1)
    kth: np.float32 = np.partition(largest, -k)[-k]
    return kth


def top_p(candidates: Candidates, p: float) -> Candidates:
    """The fewest most likely tokens whose probabilities reach p, one at least; p = 1 keeps all."""
    if p >= 1:
        return candidates
    n = len(candidates.ids)
    target = p * softmax_weights(candidates.logits).sum()
    size = min(_HEAD, n)
    while True:
        head = top_k(candidates, size)
        mass = np.cumsum(softmax_weights(head.logits))
        if mass[-1] >= target or size == n:
            count = int(np.searchsorted(mass, target)) + 1
            return Candidates(head.ids[:count], head.logits[:count])
        size = min(8 * size, n)


def min_p(candidates: Candidates, p: float) -> Candidates:
    """The tokens at least p times as likely as the likeliest; p = 0 keeps all."""
    if p <= 0:
        return candidates
    keep = softmax_weights(candidates.logits) >= p
    return Candidates(candidates.ids[keep], candidates.logits[keep])


def softmax_weights(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """exp((logits - max) / temperature): (n,) float64, 1 for the likeliest."""
    return np.exp((logits.astype(np.float64) - float(logits.max())) / temperature)


def log_probability(logits: NDArray[np.float32], token: int) -> float:
    """Natural logarithm of the probability that the model itself gives to `token`."""
    best, total = logits.max(), 0.0
    for start in range(0, len(logits), _PIECE):
        total += float(np.exp(logits[start : start + _PIECE] - best).sum(dtype=np.float64))
    return float(logits[token] - best) - math.log(total)


def top_logprobs(logits: NDArray[np.float32], k: int) -> tuple[tuple[int, float], ...]:
    """The k likeliest (id, log probability), best first, the lower id first among equals."""
    best = top_k(Candidates(np.arange(len(logits)), logits), min(k, len(logits)))
    return tuple((id, log_probability(logits, id)) for id in best.ids.tolist())


def check_finite(logits: NDArray[np.float32]) -> None:
    """Refuse NaN and infinity with `ModelFormatError`: never sample from them."""
    if not np.isfinite(logits).all():
        bad = int(np.count_nonzero(~np.isfinite(logits)))
        raise ModelFormatError(
            f"the model computed {bad:,} logits of {logits.size:,} that are not finite numbers; "
            "its weights are damaged: convert or download it again"
        )


class Sampler:
    """Chooses the tokens of one request: `sampler(logits)` is the next id.

    `seen` starts as the prompt and grows with every choice; the repeat penalty looks at its end.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int] = ()) -> None:
        self.params = params
        self.seen = list(prompt)
        # PCG64 by name: default_rng may become another generator in a later numpy.
        self._random = np.random.Generator(np.random.PCG64(params.seed))
        self._ids: NDArray[np.int64] = np.arange(0)  # all there are, once that is known

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """The next id from logits (vocab_size,) float32. Raises `ModelFormatError` on NaN."""
        check_finite(logits)
        token = self._choose(logits)
        self.seen.append(token)
        return token

    def _choose(self, logits: NDArray[np.float32]) -> int:
        params = self.params
        if params.repeat_penalty != 1 and params.repeat_last_n != 0:
            last_n = params.repeat_last_n
            recent = self.seen if last_n < 0 else self.seen[-last_n:]
            logits = penalize_repeats(logits, recent, params.repeat_penalty)
        if params.temperature == 0:
            return int(logits.argmax())
        if len(self._ids) != len(logits):
            self._ids = np.arange(len(logits))
        candidates = Candidates(self._ids, logits)
        candidates = top_k(candidates, params.top_k)
        candidates = top_p(candidates, params.top_p)
        candidates = min_p(candidates, params.min_p)
        mass = np.cumsum(softmax_weights(candidates.logits, params.temperature))
        place = int(np.searchsorted(mass, self._random.random() * mass[-1], side="right"))
        return int(candidates.ids[min(place, len(mass) - 1)])
