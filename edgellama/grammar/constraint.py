"""A grammar on its way through one answer: which ids may follow those that were chosen."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from edgellama.errors import InvalidRequest

from .ending import Ending, least_text
from .json_place import JsonPlace
from .token_trie import TokenTrie

_NEVER = np.float32(-np.inf)
_LAST_TOKENS = 256  # near the limit


class Constraint:
    """What `Grammar.start` gives. Of one request, and used by one thread at a time."""

    def __init__(
        self,
        trie: TokenTrie,
        grammar: str,
        stop_ids: Collection[int],
        *,
        continues: bool = False,
        limit: int | None = None,
        json_behind: bytes | None = None,
    ) -> None:
        """grammar: in Lark. The rest: see `Grammar.start` and `Grammar`."""
        self._trie = trie
        self._matcher = trie.matcher(grammar)
        self._grammar = grammar
        self._limit = limit
        self._json_behind = json_behind
        self._stop_ids = np.array(sorted(stop_ids), np.int64)
        self._stops = frozenset(stop_ids)
        text_stops = self._stops - trie.control_ids
        self._text_stops = np.array(sorted(text_stops), np.int64)
        self._continues = continues
        self._out = np.empty(trie.n_penalties, np.float32)
        self._accepted: list[int] = []
        self._pieces: list[bytes | None] = []  # what each wrote; None for ends, which no one reads
        self._place: JsonPlace | None = None  # None: not in JSON of our own
        self._ending: Ending | None = None  # near the limit
        self._last_tokens: int | None = None  # where that begins
        self._n_unhurried: int | None = None  # tokens before the first that the limit chose
        self._enter_json()

    @property
    def hurried(self) -> bool:
        """Whether the limit chose a token."""
        return self._n_unhurried is not None

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

    def in_time(self, id: int) -> int:
        """`id`, or what must come in its place for the answer to be complete within its limit.

        `id` as well where no ending was found.
        """
        ending = None if id in self._stops else self._ending_near_the_limit()
        if ending is None:
            return id
        left = self._n_left - 1
        behind = ending.find_behind(self._piece(id))
        if behind is not None and self._fits(behind, left):
            return id
        now = ending.find()
        if now is None or not self._fits(now, left + 1):
            return id
        if self._n_unhurried is None:
            self._n_unhurried = len(self._accepted)
        return self._trie.spell(now)[0] if now else min(self._stops, default=id)

    def accept(self, id: int) -> None:
        """The id that was chosen. Raises InvalidRequest, and changes nothing, if it may not be."""
        if id in self._stops and (self._ended or self._matcher.is_accepting()):
            self._pieces.append(None)
        else:
            known = not self._ended and 0 <= id < self._trie.vocab_size
            entry = self._trie.entry(id, first=self._at_start)
            if not known or self._matcher.try_consume_tokens([entry]) != 1:
                raise InvalidRequest(f"token {id} may not follow here, by the grammar")
            self._write(self._trie.piece(entry))
        self._accepted.append(id)

    def undo(self, n: int) -> None:
        """Forget the last `n` accepted ids, as if they had never been."""
        if not 0 <= n <= len(self._accepted):
            raise ValueError(f"cannot undo {n} of {len(self._accepted)} accepted tokens")
        if n == 0:
            return
        n_fed = sum(piece is not None for piece in self._pieces[-n:])
        if n_fed and not self._matcher.rollback(n_fed):
            raise InvalidRequest("the grammar cannot be taken back: it counts tokens")
        del self._accepted[-n:], self._pieces[-n:]
        if self._n_unhurried is not None and self._n_unhurried >= len(self._accepted):
            self._n_unhurried = None
        self._place = self._ending = None
        self._enter_json()

    @property
    def _n_left(self) -> int:
        assert self._limit is not None
        return self._limit - len(self._accepted)

    def _piece(self, id: int) -> bytes:
        return self._trie.piece(self._trie.entry(id, first=self._at_start))

    def _text(self) -> bytes:
        return b"".join(filter(None, self._pieces))

    def _write(self, piece: bytes) -> None:
        self._pieces.append(piece)
        if self._place is not None:
            self._place = self._place.after(piece)
        elif self._json_behind and len(self._pieces) <= len(self._json_behind) + 1:
            self._enter_json()
        if self._ending is not None:
            self._ending.write(piece)

    def _enter_json(self) -> None:
        if self._json_behind is not None:
            text = self._text()
            if text.startswith(self._json_behind):
                self._place = JsonPlace().after(text)

    def _ending_near_the_limit(self) -> Ending | None:
        """None while there is time, and where no ending is found."""
        if self._limit is None:
            return None
        try:
            if self._last_tokens is None:
                self._last_tokens = _LAST_TOKENS + 4 * len(least_text(self._grammar) or b"")
            if self._n_left > self._last_tokens:
                return None
            if self._ending is None:
                self._ending = Ending(self._grammar, self._text())
        except InvalidRequest:  # it names control tokens, which are no text
            self._limit = None
            return None
        if self._ending.find() is None:  # inside a pattern, for instance: looked for again later
            self._ending, self._last_tokens = None, self._n_left // 2
        return self._ending

    def _fits(self, text: bytes, n_tokens: int) -> bool:
        """Whether so many tokens can write a text."""
        return len(text) <= n_tokens or 0 < len(self._trie.spell(text)) <= n_tokens

    @property
    def _ended(self) -> bool:
        return bool(self._pieces) and self._pieces[-1] is None

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
        if self._place is not None and not self._place.in_string:
            self._end_number(self._place.digits_left)
        return out

    def _end_number(self, n: int) -> None:
        """Exclude what begins with more than `n` digits, where something else may follow.

        Where nothing else may, zeros in front: a bound may wait for another digit.
        """
        trie, out = self._trie, self._out
        if n >= trie.most_leading_digits:
            return
        allowed = out == 0
        for excluded in (trie.n_leading_digits > n, trie.leading_zeros):
            if (allowed & ~excluded).any():
                out[excluded] = _NEVER
                return
