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
        self._out = np.empty(trie.n_penalties, np.float32)
        self._accepted: list[int] = []
        self._fed: list[bool] = []  # of each accepted id, whether the matcher knows it: not of ends

    @property
    def finished(self) -> bool:
        """Whether nothing but an end may follow."""
        return self._ended or self._matcher.is_stopped()

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Another (vocab_size,) with -inf for the ids that may not follow; good until the next.

        The stop ids may follow exactly where the grammar accepts. Raises InvalidRequest if nothing
        may, or if the grammar is too ambiguous to be followed any further.
        """
        masked = self._penalties()[: len(logits)]
        n = len(masked)  # a model may have rows beyond its vocabulary
        np.add(masked, logits[:n], out=masked)
        if n < len(logits):
            masked = np.pad(masked, (0, len(logits) - n), constant_values=_NEVER)
        if masked.max() == _NEVER:
            raise InvalidRequest(
                "the grammar got stuck: no token of the vocabulary can follow what was written"
            )
        return masked

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

    def _penalties(self) -> NDArray[np.float32]:
        """0 for the ids that may follow, -inf for all others."""
        out, vocab_size, end = self._out, self._trie.vocab_size, self._trie.end
        if self._ended:
            out.fill(_NEVER)
            out[self._stop_ids] = 0
            return out
        self._trie.penalties(self._matcher, first=self._at_start, out=out)
        if out[end] == 0:
            out[self._stop_ids] = 0
        else:
            out[self._text_stops] = _NEVER  # as text they would end the answer too early
        out[vocab_size:] = _NEVER
        return out
