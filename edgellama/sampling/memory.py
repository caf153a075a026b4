"""What the chain of one request remembers from token to token."""

from array import array
from collections.abc import Sequence

import numpy as np

from edgellama.errors import InvalidRequest
from edgellama.tokenizer import Tokenizer

from .dry import Breakers, find_repeats
from .mirostat import Mirostat
from .params import SamplingParams
from .penalties import Window, penalizes


class Memory:
    """The ids of prompt and answer, and what links derive from them."""

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], tokenizer: Tokenizer | None
    ) -> None:
        """Raises InvalidRequest if DRY has breakers and no tokenizer that could find them."""
        self.seen = array("q", prompt)
        self._n_prompt = len(prompt)
        self.recent = Window(self.seen, params.repeat_last_n)
        self._counts = penalizes(params)
        self.mirostat = Mirostat(params.mirostat_tau, params.mirostat_eta)
        self.excludes_top = False  # whether xtc has its way with the next token
        self._dry_last_n = params.dry_penalty_last_n
        self._dry_shortest = params.dry_allowed_length
        self._breakers: Breakers | None = None
        if params.dry_multiplier and params.dry_sequence_breakers:
            if tokenizer is None:
                raise InvalidRequest("dry_sequence_breakers: a tokenizer is needed to find them")
            self._breakers = Breakers(params.dry_sequence_breakers, tokenizer.piece)

    def push(self, id: int) -> None:
        self.seen.append(id)
        if self._counts:
            self.recent.grow()

    def undo(self, n: int) -> None:
        assert n <= len(self.seen) - self._n_prompt, "more is undone than was chosen"
        for _ in range(n):
            if self._counts:
                self.recent.shrink()
            self.seen.pop()
        self.mirostat.undo(n)

    def repeats(self) -> dict[int, int]:
        """How long a repeat each id would continue, of those that DRY does not allow."""
        n = len(self.seen) if self._dry_last_n < 0 else min(self._dry_last_n, len(self.seen))
        if n <= self._dry_shortest:
            return {}
        recent = np.frombuffer(self.seen, np.int64)[len(self.seen) - n :]
        repeats = find_repeats(recent, self._dry_shortest)
        if not repeats or self._breakers is None:
            return repeats
        # A breaker that begins before the longest repeat may end inside it.
        n_enough = max(repeats.values()) + self._breakers.longest
        limit = self._breakers.tokens_since(recent[-n_enough:].tolist())
        if limit < self._dry_shortest:
            return {}
        return {
            id: min(length, limit)
            for id, length in repeats.items()
            if not self._breakers.inside(id)
        }
