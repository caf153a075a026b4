"""The link that stops a text from going round in circles: DRY, "don't repeat yourself".

    seen: ... a b c d ... a b c      the next token may not be d, at the price of a growing penalty

A token that would continue a repeat of n tokens loses multiplier * base ** (n - allowed_length).
Repeats do not reach across breakers, such as line ends, lest the form of a list or a dialogue be
taken for one. By p-e-w (https://github.com/oobabooga/text-generation-webui/pull/5677); how breakers
cut follows llama.cpp.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .candidates import Candidates

LONGEST = 256  # tokens: longer repeats count as this long, which bounds the search
_MOST_EXPONENT = 88.7  # natural: e to this is about what float32 holds
_MOST_PENALTY = 1e6  # as good as forbidden


def dry(
    candidates: Candidates,
    repeats: Mapping[int, int],
    multiplier: float,
    base: float,
    allowed_length: int,
) -> Candidates:
    """Make each id of `repeats`, which says how long a repeat it would continue, less likely."""
    if not repeats:
        return candidates
    most = _MOST_EXPONENT / math.log(base) if base > 1 else math.inf
    penalties = [
        min(multiplier * base ** min(length - allowed_length, most), _MOST_PENALTY)
        for length in repeats.values()
    ]
    places = candidates.find(np.fromiter(repeats, np.int64, len(repeats)))
    logits = candidates.logits.copy()
    logits[places[places >= 0]] -= np.array(penalties, np.float32)[places >= 0]
    return Candidates(candidates.ids, logits)


def find_repeats(seen: NDArray[np.int64], shortest: int) -> dict[int, int]:
    """{id: n}: after an earlier place where the last n of `seen` stood too, the id followed.

    The longest n of each id, from `shortest` (1 or more) to LONGEST.
    """
    backwards = seen[::-1]
    repeats: dict[int, int] = {}
    places = np.arange(1, len(seen))  # where an earlier copy may end, counted from the end
    n = 0
    while places.size and n < LONGEST:
        places = places[backwards[places + n] == backwards[n]]
        n += 1
        if n >= shortest:
            repeats.update(dict.fromkeys(backwards[places - 1].tolist(), n))
        places = places[places + n < len(seen)]
    return repeats


class Breakers:
    """Texts that end a sequence, wherever tokens begin and end."""

    def __init__(self, texts: Sequence[str], piece: Callable[[int], bytes]) -> None:
        """piece: the bytes of an id."""
        self._texts = [text.encode() for text in texts]
        self._piece = piece
        self.longest = max(map(len, self._texts), default=0)  # in bytes

    def inside(self, id: int) -> bool:
        """Whether the token by itself holds a breaker."""
        piece = self._piece(id)
        return any(text in piece for text in self._texts)

    def tokens_since(self, seen: Sequence[int]) -> int:
        """How many tokens stand behind the last breaker in `seen`; all if there is none."""
        after = b""  # the text behind the token that is looked at, as much as matters
        for n, id in enumerate(reversed(seen)):
            piece = self._piece(id)
            text = piece + after
            ends = [text.rindex(b) + len(b) for b in self._texts if b in text]
            if ends:
                n_bytes = max(ends) - len(piece)  # of the breaker that are behind this token
                while n_bytes > 0:
                    n_bytes -= len(self._piece(seen[len(seen) - n]))
                    n -= 1
                return n
            after = text[: self.longest - 1]
        return len(seen)
