"""Calls of tools in an answer, as many as the request allows."""

from collections.abc import Sequence

from edgellama.answer import Token
from edgellama.tokenizer import Tokenizer
from edgellama.tools import Delta, TextDelta, Tool, ToolCall, ToolReader


class CallReader:
    """A `ToolReader`; unless `parallel`, it passes on the first call only."""

    def __init__(self, tokenizer: Tokenizer, tools: Sequence[Tool], parallel: bool) -> None:
        self._reader = ToolReader(tokenizer, tools)
        self._parallel = parallel

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return self._reader.calls if self._parallel else self._reader.calls[:1]

    def push(self, tokens: Sequence[Token]) -> list[Delta]:
        """What more tokens make certain."""
        return self._allowed([delta for token in tokens for delta in self._reader.push(token)])

    def finish(self) -> list[Delta]:
        """The rest, once the answer has ended."""
        return self._allowed(self._reader.finish())

    def _allowed(self, deltas: list[Delta]) -> list[Delta]:
        if self._parallel:
            return deltas
        return [delta for delta in deltas if isinstance(delta, TextDelta) or delta.index == 0]
