"""Requests on their way through a model, whoever runs the steps.

    tokens: prompt ids, then every id that was chosen
    |--- read: keys and values are held ---|--- pending: the next step reads some of these ---|

Prefill and decode are one thing: a step reads the next pending ids, and when it has read the last,
its logits choose another. Three kinds of requests share it: `Answering` chooses ids and writes
text, `Scoring` keeps the logits of every id, `Embedding` the hidden states.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .answer import ContextReport, FinishReason, Timings, Token
from .draw import Draw
from .errors import InvalidRequest
from .sampling import Sampler, SamplingParams, top_logprobs
from .stop_strings import BannedStrings, StopStrings
from .stream import Stream
from .tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from .grammar import Grammar

# Ids of the prompt that a continuation's decoder sees first: enough to know that the text has
# begun, so that a leading space stays.
_PRIMING_IDS = 16
# How often an id is chosen anew at one place because a banned string came of it.
_MOST_ATTEMPTS = 256

Wanted = Literal["last", "all", "hidden"]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """An answer that is asked for. The prompt is checked: ids of the vocabulary, one at least."""

    prompt: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None  # None: until the context is full
    stop_ids: Collection[int] = frozenset()
    stop_strings: Collection[str] = ()
    continues: bool = True  # the text goes on where the prompt's ends, else it begins anew
    logprobs: bool = True  # whether tokens tell theirs: a pass over all logits each
    top_logprobs: int = 0
    grammar: "Grammar | None" = None
    # How many ids at the beginning stay when the context is full and older ones give way; None:
    # the answer ends there.
    shift_keep: int | None = None
    speculate: bool = True


class Reading(ABC):
    """A list of ids that is read step by step: what all kinds of requests are."""

    wanted: Wanted = "last"
    tokens: list[int]
    n_read = 0
    sequence = -1  # of the backend, while it has one
    finished = False

    @property
    def n_pending(self) -> int:
        return len(self.tokens) - self.n_read

    @property
    @abstractmethod
    def cancelled(self) -> bool:
        """Whether nobody wants the rest."""

    def begin(self, sequence: int, n_read: int) -> None:
        """It has got a sequence that holds the first `n_read` ids."""
        self.sequence, self.n_read = sequence, n_read

    def begin_choice(self, address: int, n: int) -> Draw | None:
        """What `draw_all` can do for all requests of a step, before each takes its only row.

        The row is n float32 at `address`. None: nothing.
        """
        return None

    @abstractmethod
    def take(self, rows: NDArray[np.float32], guesses: Sequence[int] = ()) -> None:
        """What a step computed for the ids that were read last; n_read counts them already.

        "last": logits (1 + guesses, vocab_size), none while there are pending ids; `guesses` were
        read behind the last id. "all": logits of each id. "hidden": hidden states (n, dim).
        """

    @abstractmethod
    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will be computed for it."""


class Answering(Reading):
    """An answer as it grows. Used by the engine's thread alone; `stream` is how others see it."""

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        n_ctx: int,
        stream: Stream[Token],
        timings: Timings,
        context: ContextReport,
    ) -> None:
        self.request = request
        self.tokens = list(request.prompt)
        self.timings = timings
        self._tokenizer = tokenizer
        self._n_ctx = n_ctx
        self._stream = stream
        self._context = context
        self._stops = StopStrings(request.stop_strings)
        self._banned = BannedStrings(request.params.banned_strings)
        self._forbidden: dict[int, set[int]] = {}  # by place in the answer: what was taken back
        self._chosen: list[int] = []  # ids of the answer, those that are still held back included
        # The last token needs no place of its own in the cache.
        room = n_ctx - len(request.prompt) + 1
        if request.shift_keep is None:
            self._limit = room if request.max_tokens is None else min(request.max_tokens, room)
        else:
            self._limit = request.max_tokens or 2**62
        self._constraint = None
        if request.grammar is not None:
            self._constraint = request.grammar.start(
                tokenizer, request.stop_ids, continues=request.continues, limit=self._limit
            )
        self._sampler = Sampler(
            request.params,
            request.prompt,
            constraint=self._constraint,
            tokenizer=tokenizer,
            logprobs=request.logprobs or request.top_logprobs > 0,
        )
        self._decoder = self._new_decoder()
        self._submitted = self._resumed = perf_counter()
        self._started = 0.0

    @property
    def cancelled(self) -> bool:
        return self._stream.cancelled

    @property
    def room(self) -> int:
        """How many guesses may be read behind what is pending."""
        return min(self._n_ctx - len(self.tokens), self._limit - len(self._chosen) - 1)

    def begin(self, sequence: int, n_read: int) -> None:
        super().begin(sequence, n_read)
        self._started = perf_counter()
        self.timings.cache_n = n_read
        self.timings.prompt_n = len(self.tokens) - n_read

    def begin_choice(self, address: int, n: int) -> Draw | None:
        if len(self._chosen) in self._forbidden:
            return None
        return self._sampler.begin(address, n)

    def take(self, rows: NDArray[np.float32], guesses: Sequence[int] = ()) -> None:
        """Choose an id from each row as long as the guess for it was right."""
        for i, logits in enumerate(rows):
            id = self._choose(logits)
            if i == len(guesses):
                break
            self.timings.draft_n += 1
            if id != guesses[i] or self.finished:
                break
            self.timings.draft_accepted_n += 1
            self.n_read += 1
        if len(self.tokens) > self._n_ctx and not self.finished:
            self._shift()

    def end(self, error: BaseException | None = None) -> None:
        self.finished = True
        self._stream.end(error)

    def _choose(self, logits: NDArray[np.float32]) -> int | None:
        """The next id, which is written; None if it was taken back with some before it."""
        place = len(self._chosen)
        id = self._sampler(logits, self._forbidden.get(place, ()))
        self._chosen.append(id)
        self.tokens.append(id)
        self._clock()
        ended = id in self.request.stop_ids
        last = ended or len(self._chosen) >= self._limit
        text = "" if ended else self._decoder.push(id)
        if last:
            text += self._decoder.flush()
        n_top = self.request.top_logprobs
        top = top_logprobs(logits, n_top, self._sampler.log_sum) if n_top else ()
        token = Token(text, id, self._sampler.logprob, None, top)
        settled, n_back = self._banned.push(token)
        if last and not n_back:
            settled += self._banned.flush()
        hurried = self._constraint is not None and self._constraint.hurried
        over: FinishReason | None = None
        if last:
            over = "stop" if ended and not hurried else "length"
        for each in settled:
            self._write(each, over if each is token else None)
        if n_back:
            self._take_back(n_back)
            return None
        return id

    def _write(self, token: Token, over: FinishReason | None) -> None:
        """Let a token out, up to the first stop string; `over`: it ends the answer."""
        if self.finished:
            return
        text, cut = self._stops.push(token.text)
        if over and not cut:
            text += self._stops.flush()
        finish = "stop" if cut else over
        if finish or text != token.text:
            token = token._replace(text=text, finish_reason=finish)
        self._stream.put(token)
        if finish:
            self.end()

    def _take_back(self, n: int) -> None:
        """Choose the last `n` ids again, the first of them otherwise: they wrote what is banned."""
        place = len(self._chosen) - n
        forbidden = self._forbidden.setdefault(place, set())
        forbidden.add(self._chosen[place])
        if len(forbidden) > _MOST_ATTEMPTS:
            raise InvalidRequest(
                f"{_MOST_ATTEMPTS} ids in turn came to a banned string at the same place; ban less"
            )
        for later in [p for p in self._forbidden if p > place]:
            del self._forbidden[later]
        del self._chosen[place:]
        del self.tokens[len(self.tokens) - n :]
        self._sampler.undo(n)
        # The id before is read again: its logits are gone.
        self.n_read = min(self.n_read, len(self.tokens) - 1)
        self._decoder = self._new_decoder()
        for id in self._chosen:
            self._decoder.push(id)

    def _shift(self) -> None:
        """Make room: of what stands behind the kept beginning, the older half gives way."""
        keep = self.request.shift_keep
        assert keep is not None
        dropped = max(1, (len(self.tokens) - keep) // 2)
        del self.tokens[keep : keep + dropped]
        self.n_read = min(self.n_read, keep)
        self._context.dropped_tokens += dropped

    def _clock(self) -> None:
        now, timings = perf_counter(), self.timings
        timings.predicted_n = len(self._chosen)
        if not timings.first_token_s:
            timings.first_token_s = now - self._submitted
            timings.prompt_s = now - self._started
            self._resumed = now
        timings.predicted_s = now - self._resumed

    def _new_decoder(self) -> StreamDecoder:
        decoder = self._tokenizer.stream()
        if self.request.continues:
            for id in self.request.prompt[-_PRIMING_IDS:]:
                decoder.push(id)
        return decoder


class Scoring(Reading):
    """The logits of every id, one after the other."""

    wanted: Wanted = "all"

    def __init__(self, ids: Sequence[int], out: NDArray[np.float32], stream: Stream[None]) -> None:
        """out: (n, vocab_size) logits or (n, dim) hidden states, filled row by row."""
        self.tokens = list(ids)
        self._out = out
        self._stream = stream

    @property
    def cancelled(self) -> bool:
        return self._stream.cancelled

    def take(self, rows: NDArray[np.float32], guesses: Sequence[int] = ()) -> None:
        self._out[self.n_read - len(rows) : self.n_read] = rows
        if self.n_pending == 0:
            self.end()

    def end(self, error: BaseException | None = None) -> None:
        self.finished = True
        self._stream.end(error)


class Embedding(Scoring):
    """The hidden state of every id, behind the last norm."""

    wanted: Wanted = "hidden"
