"""The vocabulary as llguidance sees it: the bytes of every token, with a few entries of our own.

    0 .. vocab_size - 1     the tokens, by id
    vocab_size ..           the tokens that say something else where a text begins: SentencePiece's
                            with a space in front, without it
    end                     the last: allowed where the grammar accepts

An end of our own, since each request says for itself which ids end its answer.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from functools import cache, cached_property
from threading import Lock, Thread, stack_size
from typing import TYPE_CHECKING, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from edgellama.errors import InvalidRequest
from edgellama.tokenizer import Tokenizer

from .failures import reason

if TYPE_CHECKING:
    from llguidance import LLMatcher, TokenizerWrapper

_KEPT = 32  # compiled grammars of one vocabulary: a server's clients come back with the same few
_MAX_LEXER_STATES = 50_000  # 2 kB each
_LONGEST_PIECE = 16  # that is looked for when a text is spelled
_STACK_BYTES = 256 << 20
_stack_size_lock = Lock()

T = TypeVar("T")

# (256, 8) the penalties for the 8 bits of a byte. To look them up and add them takes 40 µs for a
# vocabulary of 128k; to choose between each logit and -inf takes ten times as long.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_OF_BYTE = np.where(_BITS == 1, np.float32(0), np.float32(-np.inf))


class TokenTrie:
    """All tokens of one vocabulary, prepared for masks; safe to share between threads."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        control_ids: Collection[int] = (),
        firsts: Mapping[int, bytes] | None = None,
    ) -> None:
        """pieces: the bytes of each id, of a control id its name.

        firsts: the bytes of those ids that say something else where a text begins.
        """
        from llguidance import LLParserLimits, LLTokenizer

        firsts = firsts or {}
        self.vocab_size = len(pieces)
        self.control_ids = frozenset(control_ids)
        self.end = len(pieces) + len(firsts)
        self.n_penalties = (self.end // 32 + 1) * 32  # masks come in words of 32 bits
        self._first_entries = {id: len(pieces) + i for i, id in enumerate(firsts)}
        self._led_ids = np.array(list(firsts), np.int64)
        entries = [*pieces, *firsts.values(), b"<end>"]
        self._entries = entries
        digits = [len(entry) - len(entry.lstrip(b"0123456789")) for entry in entries]
        self.most_leading_digits = max(digits)
        self.n_leading_digits = np.zeros(self.n_penalties, np.uint16)
        self.n_leading_digits[: len(entries)] = digits
        self.leading_zeros = np.zeros(self.n_penalties, bool)
        self.leading_zeros[: len(entries)] = [entry.startswith(b"0") for entry in entries]
        wrapper = _Wrapper(entries, [*control_ids, self.end], self.end)
        self._tokenizer = LLTokenizer(cast("TokenizerWrapper", wrapper))
        self._limits = LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
        self._matchers: dict[str, LLMatcher] = {}
        self._lock = Lock()

    def matcher(self, lark: str) -> "LLMatcher":
        """A matcher at the beginning of a grammar. Raises InvalidRequest with what is wrong in it.

        A grammar is compiled once, in about 2 ms; a copy costs 10 µs.
        """
        with self._lock:
            matcher = self._matchers.pop(lark, None)
            if matcher is None:
                matcher = on_a_large_stack(lambda: self._compiled(lark))
            self._matchers[lark] = matcher  # the last one used is the last to go
            if len(self._matchers) > _KEPT:
                del self._matchers[next(iter(self._matchers))]
            return matcher.deep_copy()

    def entry(self, id: int, *, first: bool) -> int:
        """Where token `id` stands, if `first` as the first of a text."""
        return self._first_entries.get(id, id) if first else id

    def piece(self, entry: int) -> bytes:
        """What an entry says."""
        return self._entries[entry]

    def spell(self, text: bytes) -> list[int]:
        """Few ids that say a text, whatever the tokenizer's way would be; none if none do."""
        ids, done = [], 0
        while done < len(text):
            for n in range(min(_LONGEST_PIECE, len(text) - done), 0, -1):
                id = self._ids.get(text[done : done + n])
                if id is not None:
                    break
            else:
                return []
            ids.append(id)
            done += n
        return ids

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        """By what they say, without control ids."""
        pieces = self._entries[: self.vocab_size]
        return {p: id for id, p in enumerate(pieces) if p and id not in self.control_ids}

    def penalties(
        self, matcher: "LLMatcher", *, first: bool, out: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What may follow: 0 for entries that may, -inf for others, in `out` (n_penalties,).

        first: where a text begins. Raises InvalidRequest where the grammar is too ambiguous to be
        followed within the limits.
        """
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        if matcher.is_error():  # and the mask says "end", whatever was written
            raise InvalidRequest(f"the grammar cannot be followed: {reason(matcher.get_error())}")
        np.take(_OF_BYTE, bits, axis=0, out=out.reshape(-1, 8), mode="clip")
        if first and len(self._led_ids):
            out[self._led_ids] = out[self.vocab_size : self.end]
        return out

    def _compiled(self, lark: str) -> "LLMatcher":
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, lark, log_level=0, limits=self._limits)
        if not matcher.is_error():
            mask = matcher.compute_bitmask()
            if not matcher.is_error() and any(mask):
                return matcher
        raise InvalidRequest(reason(matcher.get_error()))


def on_a_large_stack(work: Callable[[], T]) -> T:
    """The result of `work`, done where llguidance can recurse as deep as a grammar goes.

    It takes up to 10 kB of stack for each schema in another, also through $ref, and ends the
    process when there is no more. Of the stack only what is used takes memory.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    with _stack_size_lock:
        before = stack_size(_STACK_BYTES)
        try:
            thread = Thread(target=run, name="edgellama-grammar", daemon=True)
            thread.start()
        finally:
            stack_size(before)
    thread.join()
    return outcome.result()


class _Wrapper:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: list[bytes], special_ids: list[int], end: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special_ids
        self.eos_token_id = end

    def __call__(self, data: bytes) -> list[int]:
        # Asked only in order to force the usual spelling of what must follow. Grammars here say
        # no_forcing: each spelling is as good as another, and the model chooses.
        raise AssertionError("no grammar of ours asks for the usual spelling")


_tries: "WeakKeyDictionary[Tokenizer, TokenTrie]" = WeakKeyDictionary()
_tries_lock = Lock()


def trie_of(tokenizer: Tokenizer) -> TokenTrie:
    """The trie of a tokenizer, made once: about a second for a vocabulary of 128k."""
    with _tries_lock:
        trie = _tries.get(tokenizer)
        if trie is None:
            ids = range(tokenizer.vocab_size)
            pieces = [tokenizer.piece(id) for id in ids]
            control = [id for id in ids if tokenizer.is_control(id)]
            firsts = {id: tokenizer._first_piece(id) for id in ids if not tokenizer.is_control(id)}
            firsts = {id: first for id, first in firsts.items() if first != pieces[id]}
            trie = _tries[tokenizer] = TokenTrie(pieces, control, firsts)
        return trie


@cache
def byte_trie() -> TokenTrie:
    """A vocabulary of the 256 bytes: what is no grammar at all is found without a model."""
    return TokenTrie([bytes([byte]) for byte in range(256)])
