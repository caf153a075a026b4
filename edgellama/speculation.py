"""Guessing ahead: several ids are read in one step, and those that would have been chosen count.

A guess never changes an answer: each id is chosen from the model's own logits, with the request's
own random numbers, and what was guessed otherwise is forgotten. Whether guessing pays is measured
all the time: how often guesses come true, and what steps of so many rows cost on this machine. A
guess is made where it promises more tokens a second than none.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .backends import Backend, Batch
from .slots import common_prefix

MOST_GUESSES = 8
NGRAM = 3  # ids that must have stood together before
_MEMORY = 0.85  # weight of the past in running means
_MARGIN = 1.05  # the gain that must be promised
_PRIOR_HIT = 0.5  # how often a guess comes true, before any has been checked
_PRIOR_COST = 0.25  # a further row against the first one, before it was measured
_RETRY_TOKENS = 64  # what was found too costly is tried again after so many tokens
_SURE = 0.7  # share of guesses that come true, from which a try costs little
_RECENT = 0.5  # weight of the past where a step was faster: what disturbs a measure makes it slow


class Drafter(Protocol):
    """Proposes what may come next."""

    free: bool  # proposals cost nothing worth counting, so they can be checked without being run

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        """At most n ids that may follow `tokens`."""
        ...


class PromptLookup:
    """Proposes what followed the last few ids where they stood before (arXiv:2304.04487)."""

    free = True

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}  # n-gram -> place behind its last but one

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        known = len(self._tokens)
        if self._tokens[-NGRAM:] != list(tokens[max(known - NGRAM, 0) : known]):
            self._tokens, self._behind, known = [], {}, 0  # something was taken back
        # The n-gram at the very end is entered when something stands behind it.
        for i in range(max(known, NGRAM), len(tokens)):
            self._behind[tuple(tokens[i - NGRAM : i])] = i
        self._tokens.extend(tokens[known:])
        place = self._behind.get(tuple(tokens[-NGRAM:]))
        return [] if place is None else list(tokens[place : place + n])


class DraftModel:
    """Proposes what a smaller model of the same vocabulary would say, greedily."""

    free = False

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._held: list[int] = []

    def propose(self, tokens: Sequence[int], n: int) -> list[int]:
        n = min(n, self._backend.n_ctx - len(tokens))
        if n <= 0:
            return []
        common = min(common_prefix(self._held, tokens), len(tokens) - 1)
        self._backend.rewind(0, common)
        self._held = list(tokens[:common])
        ids = list(tokens[common:])
        proposed: list[int] = []
        while True:
            logits = self._backend.forward(Batch.of(ids, 0, len(self._held)))
            self._held += ids
            proposed.append(int(np.argmax(logits[0])))
            if len(proposed) == n:
                return proposed
            ids = proposed[-1:]


class Costs:
    """Seconds of a step by its number of rows, as measured on this machine with this model."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._single = 0  # steps of one row, one after the other

    @property
    def are_old(self) -> bool:
        """Whether nothing but steps of one row was measured for a while."""
        return self._single >= _RETRY_TOKENS

    def note(self, n_rows: int, seconds: float) -> None:
        self._single = self._single + 1 if n_rows == 1 else 0
        one = self._seconds.get(1)
        if n_rows > 1 and one is not None and seconds < one * self.ratio(n_rows) / 2:
            self._seconds = {1: one}  # the others were measured while something else ran
        before = self._seconds.get(n_rows)
        if before is None:
            self._seconds[n_rows] = seconds
        else:
            # A pause of the whole machine is no property of the step.
            seconds = min(seconds, 3 * before)
            past = _MEMORY if seconds > before else _RECENT
            self._seconds[n_rows] = past * before + (1 - past) * seconds

    def ratio(self, n_rows: int) -> float:
        """Of a step of so many rows to one of a single row."""
        one = self._seconds.get(1)
        if one is None or n_rows == 1:
            return 1.0
        known = {n: seconds / one for n, seconds in self._seconds.items() if n > 1}
        if n_rows in known:
            return max(1.0, known[n_rows])
        if not known:
            return 1 + _PRIOR_COST * (n_rows - 1)
        nearest = min(known, key=lambda n: abs(n - n_rows))
        a_row = max(known[nearest] - 1, 0.0) / (nearest - 1)
        return 1 + a_row * (n_rows - 1)


class Speculation:
    """Guesses for one answer, as long as they pay."""

    def __init__(self, drafter: Drafter, costs: Costs) -> None:
        self._drafter = drafter
        self._costs = costs
        self._hit = _PRIOR_HIT  # how often a guess behind right ones comes true
        self._idle = 0  # tokens since guessing was given up
        self._unchecked: int | None = None  # proposed for the next place, but not run

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        """Ids to read behind `tokens`, or none."""
        if self._unchecked is not None:
            self._note_hit(tokens[-1] == self._unchecked)
            self._unchecked = None
        n = self._best_number(min(most, MOST_GUESSES))
        if not n and self._hit > _SURE and self._costs.are_old:
            n = min(most, 2)
        if not n and not self._drafter.free:
            self._idle += 1
            if self._idle < _RETRY_TOKENS:
                return []
            self._idle, n = 0, min(most, 2)
        if n or self._drafter.free:
            proposed = self._drafter.propose(tokens, max(n, 1))
            if n:
                return proposed[:n]
            self._unchecked = proposed[0] if proposed else None
        return []

    def note(self, n_guessed: int, n_accepted: int) -> None:
        """So many of the guesses came true."""
        for _ in range(n_accepted):
            self._note_hit(True)
        if n_accepted < n_guessed:
            self._note_hit(False)

    def _note_hit(self, hit: bool) -> None:
        self._hit = _MEMORY * self._hit + (1 - _MEMORY) * hit

    def _best_number(self, most: int) -> int:
        """The number of guesses that promises the most tokens a second, 0 if none does."""
        best, best_gain = 0, _MARGIN
        tokens = 1.0
        for n in range(1, most + 1):
            tokens += self._hit**n
            gain = tokens / self._costs.ratio(1 + n)
            if gain > best_gain:
                best, best_gain = n, gain
        return best
