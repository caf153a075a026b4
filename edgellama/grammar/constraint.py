"""A grammar on its way through one answer: which ids may follow those that were chosen."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgellama.errors import InvalidRequest

from .token_trie import TokenTrie

if TYPE_CHECKING:
    from llguidance import LLMatcher

_NEVER = np.float32(-np.inf)


class Constraint:
    """What `Grammar.start` gives. Of one request, and used by one thread at a time."""

    def __init__(
        self, trie: TokenTrie, matcher: "LLMatcher", stop_ids: Collection[int], continues: bool
    ) -> None:
        self._trie = trie
        self._matcher = matcher
        self._stop_ids = np.array(sorted(stop_ids), np.int64)
        self._stops = frozenset(stop_ids)
        text_stops = self._stops - trie.control_ids
        self._text_stops = np.array(sorted(text_stops), np.int64)
        self._continues = continues
        self._accepted: list[int] = []
        self._fed: list[bool] = []  # of each accepted id, whether the matcher knows it: not of ends

    @property
    def finished(self) -> bool:
        """Whether nothing but an end may follow."""
        return self._ended or self._matcher.is_stopped()

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of logits (vocab_size,) with -inf for the ids that may not follow.

        The stop ids may follow exactly where the grammar accepts. Raises InvalidRequest if nothing
        may, or if the grammar is too ambiguous to be followed any further.
        """
        allowed = self._allowed()
        n = len(logits)
        if not allowed.any():
            raise InvalidRequest(
                "the grammar got stuck: no token of the vocabulary can follow what was written"
            )
        if n > len(allowed):  # rows that the model has beyond its vocabulary
            allowed = np.pad(allowed, (0, n - len(allowed)))
        return np.where(allowed[:n], logits, _NEVER)

    def accept(self, id: int) -> None:
        """The id that was chosen. Raises InvalidRequest, and changes nothing, if it may not be."""
        ends = id in self._stops and (self._ended or self._matcher.is_accepting())
        if not ends:
            known = not self._ended and 0 <= id < self._trie.vocab_size
            entry = self._trie.entry(id, first=self._at_start)
            if not known or self._matcher.try_consume_tokens([entry]) != 1:
                raise InvalidRequest(f"token {id} may not follow here, by the grammar")
        self._accepted.append(id)
        self._fed.append(not ends)

    def undo(self, n: int) -> None:
        """Forget the last `n` accepted ids, as if they had never been."""
        if not 0 <= n <= len(self._accepted):
            raise ValueError(f"cannot undo {n} of {len(self._accepted)} accepted tokens")
        if n == 0:
            return
        n_fed = sum(self._fed[-n:])
        if n_fed and not self._matcher.rollback(n_fed):
            raise InvalidRequest("the grammar cannot be taken back: it counts tokens")
        del self._accepted[-n:], self._fed[-n:]

    @property
    def _ended(self) -> bool:
        return bool(self._fed) and not self._fed[-1]

    @property
    def _at_start(self) -> bool:
        """Whether no text was written yet, so that SentencePiece drops a leading space."""
        return not self._continues and all(id in self._trie.control_ids for id in self._accepted)

    def _allowed(self) -> NDArray[np.bool_]:
        """(vocab_size,) of the ids that may follow."""
        vocab_size = self._trie.vocab_size
        if self._ended:
            allowed = np.zeros(vocab_size, np.bool_)
            allowed[self._stop_ids] = True
            return allowed
        entries = self._trie.allowed(self._matcher, first=self._at_start)
        allowed = entries[:vocab_size]
        if entries[self._trie.end]:
            allowed[self._stop_ids] = True
        else:
            allowed[self._text_stops] = False  # as text they would end the answer too early
        return allowed
