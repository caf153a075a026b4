"""The link that makes tokens seen lately less likely: repeat, presence and frequency penalty."""

from array import array
from collections import Counter
from collections.abc import Mapping

import numpy as np

from .candidates import Candidates
from .params import SamplingParams


def penalizes(params: SamplingParams) -> bool:
    """Whether the link does anything."""
    penalties = (params.repeat_penalty - 1, params.presence_penalty, params.frequency_penalty)
    return params.repeat_last_n != 0 and any(penalties)


def penalize(
    candidates: Candidates,
    counts: Mapping[int, int],
    repeat: float = 1.0,
    presence: float = 0.0,
    frequency: float = 0.0,
) -> Candidates:
    """Make each id of `counts`, which says how often it was seen, less likely.

    First a positive logit is divided by `repeat`, a negative one multiplied (CTRL,
    arXiv:1909.05858, with llama.cpp's care for the sign); then `presence`, and `frequency` for each
    time, are subtracted.
    """
    places = candidates.find(np.fromiter(counts, np.int64, len(counts)))
    times = np.fromiter(counts.values(), np.float32, len(counts))[places >= 0]
    places = places[places >= 0]
    logits = candidates.logits.copy()
    seen = logits[places]
    seen = np.where(seen > 0, seen / repeat, seen * repeat)
    logits[places] = seen - (frequency * times + presence)
    return Candidates(candidates.ids, logits)


class Window:
    """How often each id occurs among the last `n` of `seen`, -1 for all, kept as `seen` changes."""

    def __init__(self, seen: "array[int]", n: int) -> None:
        self._seen = seen
        self._n = n
        self.counts = Counter(seen if n < 0 else seen[max(0, len(seen) - n) :])

    def grow(self) -> None:
        """The last of `seen` is new."""
        self.counts[self._seen[-1]] += 1
        if 0 <= self._n < len(self._seen):
            self._take(self._seen[-1 - self._n])

    def shrink(self) -> None:
        """The last of `seen` is about to go."""
        self._take(self._seen[-1])
        if 0 <= self._n < len(self._seen):
            self.counts[self._seen[-1 - self._n]] += 1

    def _take(self, id: int) -> None:
        self.counts[id] -= 1
        if not self.counts[id]:
            del self.counts[id]
