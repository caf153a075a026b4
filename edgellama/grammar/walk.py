"""A walk through a grammar to an end of it, byte by byte.

Most grammars are of JSON, so what closes is tried first. Where a walk goes round in circles, a byte
is preferred that leads to where it was least often, and where nothing new is in sight, how regular
expressions end is tried: see regex_tails.py.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .json_place import JsonPlace

if TYPE_CHECKING:
    from llguidance import LLMatcher

_PATIENCE = 2  # visits of a place before the way on is looked for
_MOST_NESTED = 200  # what closes more closes nothing
_CLOSING = (b"}]", b'"')  # outside of strings, and inside
_PRINTABLE = bytes(range(32, 127))
_SIGNS_FIRST = bytes(sorted(_PRINTABLE, key=lambda byte: (chr(byte).isalnum(), byte)))
_PARTS_OF_OTHERS = bytes(set(range(256)) - set(_PRINTABLE)) + b"\\"


class Order(NamedTuple):
    """All bytes, in the order in which they are tried."""

    outside: bytes  # of strings
    inside: bytes


def _order(names: bytes) -> Order:
    firsts = (_CLOSING[0] + b',:0123456789ntf"[{-' + _PRINTABLE, _CLOSING[1] + names)
    return Order(*(bytes(dict.fromkeys(first + bytes(range(256)))) for first in firsts))


ORDERS = (_order(_SIGNS_FIRST), _order(_SIGNS_FIRST[::-1]))  # they meet properties in other orders


class Walk:
    """From one place to an end."""

    def __init__(
        self, matcher: "LLMatcher", place: JsonPlace, order: Order, tails: Sequence[bytes]
    ) -> None:
        """matcher: over bytes, and used up. tails: how expressions of the grammar may end."""
        self.n_steps = 0  # bytes that were tried
        self._matcher = matcher
        self._place = place
        self._order = order
        self._tails = tails
        self._visits: Counter[bytes] = Counter()  # by what may follow: no other state can be seen

    def to_end(self, most_steps: int) -> bytes | None:
        """A text behind which the grammar accepts; None if none was found in so many steps."""
        text = b""
        while self.n_steps < most_steps:
            if self._matcher.is_accepting():
                return text
            step = self._step()
            if step is None or self._matcher.try_consume_tokens(list(step)) != len(step):
                return None  # the latter where the grammar is too ambiguous to be followed
            self.n_steps += len(step)
            self._place = self._place.after(step)
            text += step
        return None

    def _step(self) -> bytes | None:
        """What to write next; None where nothing may follow."""
        mask = self._matcher.compute_bitmask()
        order = self._order[self._place.in_string]
        first = next(_allowed(mask, order), None)
        if first is None:
            return None
        self._visits[mask] += 1
        n = self._visits[mask]
        closes = first in _CLOSING[self._place.in_string] and n <= _MOST_NESTED
        if closes or not _is_due(n - _PATIENCE):
            return bytes((first,))
        return self._way_on(bytes(_allowed(mask, order)))

    def _way_on(self, allowed: bytes) -> bytes:
        """The byte that leads to where it was least often, or a tail that fits."""
        best, fewest = allowed[0], -1
        # Other characters lead to where nothing was, and only to the rest of a character.
        for byte in allowed.translate(None, _PARTS_OF_OTHERS) or allowed:
            n = self._visits_behind(byte)
            if n == 0:
                return bytes((byte,))
            if fewest < 0 or n < fewest:
                best, fewest = byte, n
        return next((tail for tail in self._tails if self._fits(tail)), bytes((best,)))

    def _visits_behind(self, byte: int) -> int:
        self.n_steps += 1
        self._matcher.try_consume_tokens([byte])
        ends = self._matcher.is_accepting()
        n = 0 if ends else self._visits[self._matcher.compute_bitmask()]
        self._matcher.rollback(1)
        return n

    def _fits(self, tail: bytes) -> bool:
        """Whether a tail may follow, and behind it an end or a quote."""
        self.n_steps += 1
        matcher = self._matcher.deep_copy()
        if matcher.try_consume_tokens(list(tail)) != len(tail):
            return False
        return bool(matcher.is_accepting()) or any(_allowed(matcher.compute_bitmask(), b'"'))


def _is_due(n: int) -> bool:
    """At 1, 2, 4, 8, ...: what comes again may be a long string, which is no circle."""
    return n > 0 and n & (n - 1) == 0


def _allowed(mask: bytes, order: bytes) -> Iterator[int]:
    return (byte for byte in order if mask[byte >> 3] >> (byte & 7) & 1)
