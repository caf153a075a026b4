"""How an answer with few tokens left comes to its end: a text that completes it.

A grammar may let an answer go on for ever, and a model may want to: one more item, one more
sentence in a string. Near its limit an answer therefore takes only tokens behind which an ending
that was found still fits; where the model chooses another, the ending's next token comes instead.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from .json_place import JsonPlace
from .regex_tails import regex_tails
from .token_trie import byte_trie
from .walk import ORDERS, Walk

if TYPE_CHECKING:
    from llguidance import LLMatcher

# Of walks, some 10 µs each: what one search may take, and all of an answer.
_MOST_STEPS = 6_000
_MOST_STEPS_OF_ANSWER = 100_000


class Ending:
    """The text of one answer so far, and what would complete it."""

    def __init__(self, grammar: str, text: bytes = b"") -> None:
        """grammar: in Lark. text: what was written already.

        Raises InvalidRequest for a grammar that names control tokens, which are no text.
        """
        self._matcher = byte_trie().matcher(grammar)
        self._tails = regex_tails(grammar)
        self._matcher.try_consume_tokens(list(text))
        self._place = JsonPlace().after(text)
        self._steps_left = _MOST_STEPS_OF_ANSWER
        self._text: bytes | None = None  # the ending, where it is known
        self._behind: dict[bytes, bytes | None] = {}  # those behind what may be written next

    def find(self) -> bytes | None:
        """A text that completes the answer as it is; None if none was found."""
        if self._text is None:
            self._text = self._search(self._matcher, self._place)
        return self._text

    def find_behind(self, data: bytes) -> bytes | None:
        """A text that completes it if `data` is written next; None if none was found."""
        if data not in self._behind:
            self._behind[data] = self._search_behind(data)
        return self._behind[data]

    def write(self, data: bytes) -> None:
        """`data` was written."""
        self._text = self.find_behind(data)
        self._behind.clear()
        self._matcher.try_consume_tokens(list(data))
        self._place = self._place.after(data)

    def _search_behind(self, data: bytes) -> bytes | None:
        text = self.find()
        if text is not None and text.startswith(data):
            return text[len(data) :]
        matcher = self._matcher.deep_copy()
        if matcher.try_consume_tokens(list(data)) != len(data):
            return None
        if text is not None and _completes(matcher, text):
            return text
        return self._search(matcher, self._place.after(data))

    def _search(self, matcher: "LLMatcher", place: JsonPlace) -> bytes | None:
        """A text behind which `matcher` accepts; rather short, not the shortest."""
        texts = []
        for order in ORDERS:
            walk = Walk(matcher.deep_copy(), place, order, self._tails)
            texts.append(walk.to_end(min(_MOST_STEPS, self._steps_left)))
            self._steps_left -= walk.n_steps
        return min((text for text in texts if text is not None), key=len, default=None)


@lru_cache(maxsize=32)
def least_text(grammar: str) -> bytes | None:
    """A whole text of a language in Lark; None if none was found. Raises as `Ending` does."""
    return Ending(grammar).find()


def _completes(matcher: "LLMatcher", text: bytes) -> bool:
    ids = [*text, byte_trie().end]
    return bool(matcher.validate_tokens(ids) == len(ids))
