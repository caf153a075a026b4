"""Strings that text must not contain: stop strings end it, banned strings are written otherwise."""

from collections.abc import Collection

from .answer import Token


class StopStrings:
    """Lets text through up to the first stop string, and never a part of one.

    Text that may be the beginning of a stop string is held back until the next text decides.
    """

    def __init__(self, strings: Collection[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text to show, whether a stop string was reached)."""
        if not self._strings:
            return text, False
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._strings) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        n_held = max((_overlap(text, stop) for stop in self._strings), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held], False

    def flush(self) -> str:
        """What was held back and turned out to be no stop string."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins, short of all of it."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0


class BannedStrings:
    """Holds tokens back while their text may become a banned string, and says when it has."""

    def __init__(self, strings: Collection[str]) -> None:
        self._strings = tuple(strings)
        self._held: list[Token] = []

    def push(self, token: Token) -> tuple[list[Token], int]:
        """(tokens that are settled, how many of the last pushed are to be chosen again)."""
        if not self._strings:
            return [token], 0
        self._held.append(token)
        text = "".join(held.text for held in self._held)
        found = [at for at in (text.find(banned) for banned in self._strings) if at >= 0]
        if found:
            settled = self._let_go(min(found))
            n_back = len(self._held)
            self._held.clear()
            return settled, n_back
        n_held = max(_overlap(text, banned) for banned in self._strings)
        return self._let_go(len(text) - n_held), 0

    def flush(self) -> list[Token]:
        """What was held back and turned out to be no banned string."""
        held, self._held = self._held, []
        return held

    def _let_go(self, n_chars: int) -> list[Token]:
        """Tokens that lie wholly in the first characters held."""
        n = 0
        while n < len(self._held) and len(self._held[n].text) <= n_chars:
            n_chars -= len(self._held[n].text)
            n += 1
        settled, self._held = self._held[:n], self._held[n:]
        return settled
