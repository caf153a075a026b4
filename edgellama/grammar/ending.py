"""How an answer with few tokens left comes to its end: a text that completes it.

A grammar may let an answer go on for ever, and a model may want to: one more item, one more
sentence in a string. Near its limit an answer therefore takes only tokens behind which an ending
that was found still fits; where the model chooses another, the ending's next token comes instead.

An ending is found byte by byte. Most grammars are of JSON, so what closes is tried first. Where a
walk goes round in circles, a byte is preferred that leads to where it was least often, and where
nothing new is in sight, how regular expressions end is tried: see regex_tails.py.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from .json_place import JsonPlace
from .regex_tails import regex_tails
from .token_trie import byte_trie

if TYPE_CHECKING:
    from llguidance import LLMatcher

_CLOSING = (b"}]", b'"')  # outside of strings, and inside
_PRINTABLE = bytes(range(32, 127))
_SIGNS_FIRST = bytes(sorted(_PRINTABLE, key=lambda byte: (chr(byte).isalnum(), byte)))
_PARTS_OF_OTHERS = bytes(set(range(256)) - set(_PRINTABLE)) + b"\\"
_OUTSIDE = _CLOSING[0] + b',:0123456789ntf"[{-' + _PRINTABLE
# What is tried first, outside of strings and inside, on two walks: names meet in other orders.
_WALKS = [
    [bytes(dict.fromkeys(first + bytes(range(256)))) for first in (_OUTSIDE, _CLOSING[1] + inside)]
    for inside in (_SIGNS_FIRST, _SIGNS_FIRST[::-1])
]
_PATIENCE = 2  # visits of a place before the way on is looked for
_MOST_NESTED = 200  # what closes more closes nothing
_MOST_STEPS = 3000  # of 10 µs


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
        self._text: bytes | None = None  # the ending, where it is known
        self._behind: dict[bytes, bytes | None] = {}  # those behind what may be written next

    def find(self) -> bytes | None:
        """A text that completes the answer as it is; None if none was found."""
        if self._text is None:
            self._text = _search(self._matcher, self._place, self._tails)
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
        return _search(matcher, self._place.after(data), self._tails)


@lru_cache(maxsize=32)
def least_text(grammar: str) -> bytes | None:
    """A whole text of a language in Lark; None if none was found. Raises as `Ending` does."""
    return Ending(grammar).find()


def _completes(matcher: "LLMatcher", text: bytes) -> bool:
    ids = [*text, byte_trie().end]
    return bool(matcher.validate_tokens(ids) == len(ids))


def _search(matcher: "LLMatcher", place: JsonPlace, tails: Sequence[bytes]) -> bytes | None:
    """A text behind which `matcher` accepts; rather short, not the shortest."""
    texts = [_walk(matcher.deep_copy(), place, orders, tails) for orders in _WALKS]
    return min((text for text in texts if text is not None), key=len, default=None)


def _walk(
    matcher: "LLMatcher", place: JsonPlace, orders: Sequence[bytes], tails: Sequence[bytes]
) -> bytes | None:
    """A text behind which `matcher`, which is used up, accepts."""
    text = bytearray()
    visits: Counter[bytes] = Counter()
    steps = 0
    while steps < _MOST_STEPS:
        if matcher.is_accepting():
            return bytes(text)
        mask = matcher.compute_bitmask()
        visits[mask] += 1
        allowed = bytes(byte for byte in orders[place.in_string] if _allows(mask, byte))
        if not allowed:
            return None
        step, n = allowed[:1], visits[mask]
        if _is_due(n - _PATIENCE) and (n > _MOST_NESTED or step not in _CLOSING[place.in_string]):
            steps += len(allowed) + len(tails)
            step = _way_on(matcher, allowed, visits, tails)
        matcher.try_consume_tokens(list(step))
        steps += len(step)
        place = place.after(step)
        text += step
    return None


def _is_due(n: int) -> bool:
    """At 1, 2, 4, 8, ...: what comes again may be a long string, which is no circle."""
    return n > 0 and n & (n - 1) == 0


def _way_on(
    matcher: "LLMatcher", allowed: bytes, visits: Mapping[bytes, int], tails: Sequence[bytes]
) -> bytes:
    """The byte, the first of them, that leads to where a walk was least often, or a tail that fits.

    Places are told apart by what may follow, as no other state of a matcher can be seen.
    """
    best, fewest = allowed[:1], -1
    # Other characters than these lead to where nothing was, and only to the rest of a character.
    for byte in allowed.translate(None, _PARTS_OF_OTHERS) or allowed:
        matcher.try_consume_tokens([byte])
        n = 0 if matcher.is_accepting() else visits.get(matcher.compute_bitmask(), 0)
        matcher.rollback(1)
        if n == 0:
            return bytes((byte,))
        if fewest < 0 or n < fewest:
            best, fewest = bytes((byte,)), n
    return next((tail for tail in tails if _closes(matcher.deep_copy(), tail)), best)


def _closes(matcher: "LLMatcher", tail: bytes) -> bool:
    """Whether a text may follow, and behind it an end or a quote."""
    if matcher.try_consume_tokens(list(tail)) != len(tail):
        return False
    return bool(matcher.is_accepting()) or _allows(matcher.compute_bitmask(), _CLOSING[1][0])


def _allows(mask: bytes, byte: int) -> bool:
    return bool(mask[byte >> 3] >> (byte & 7) & 1)
