"""One model, several requests at once: a thread that runs one step after another.

    submit --> queue --> a free sequence --> steps, with everyone else's rows --> stream of tokens

Each step reads a row of everyone who writes and shares what is left of it among those whose prompt
is still being read, so nobody waits for a long prompt of somebody else. Results do not depend on
the company: a row's arithmetic is the same in any batch (except on AMX, see `deterministic`).

The thread starts with the first request and ends when there has been none for a while.
"""

import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .answer import ContextReport, Timings, Token
from .backends import Backend, Batch
from .draw import draw_all
from .errors import ContextFull, InvalidRequest, Overloaded, ResourceError
from .generate import Generation
from .prefix_store import PrefixStore
from .requests import Answering, Embedding, Reading, Request, Scoring
from .schedule import share_rows
from .slots import Slots, common_prefix
from .speculation import MOST_GUESSES, Costs, Drafter, PromptLookup, Speculation
from .stream import Bell, Stream
from .tokenizer import Tokenizer

# A step looks up for cancellations and newcomers between chunks of rows: many, so that a weight
# once read serves them all, but only so many as take about so long. No result depends on it.
CHUNK_ROWS = 32, 256  # least and most
ALONE_S = 0.5
IN_COMPANY_S = 0.2  # where others wait for their next token
IDLE_S = 10.0  # after which the thread ends
_MEMORY = 0.8  # weight of the past in the running mean of seconds a row


@dataclass(slots=True)
class EngineStatus:
    """What an engine does now, and what it has done since its start."""

    n_parallel: int
    active: int = 0
    queued: int = 0
    kv_tokens: int = 0  # whose keys and values are held
    requests_total: int = 0
    prompt_tokens_total: int = 0  # run, without those that a cache held
    cached_tokens_total: int = 0
    predicted_tokens_total: int = 0
    prompt_seconds_total: float = 0.0
    predicted_seconds_total: float = 0.0
    draft_tokens_total: int = 0
    draft_accepted_total: int = 0
    steps_total: int = 0
    rows_total: int = 0
    # Of the prefix store, all its models together: blocks of 64 tokens that it had, and had not.
    store_hits: int = 0
    store_misses: int = 0


class Engine:
    """Runs the requests of any number of threads and event loops on one backend."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        *,
        queue_limit: int = 128,
        store: PrefixStore | None = None,
        store_key: str = "",
        drafter: Drafter | None = None,
        deterministic: bool = False,
    ) -> None:
        """queue_limit: requests that may wait for a sequence. deterministic: the same seed gives
        the same text in any company, also where large batches use other arithmetic (AMX)."""
        self.n_ctx = backend.n_ctx
        self._backend = backend
        self._tokenizer = tokenizer
        self._slots = Slots(backend, store, store_key)
        self._queue_limit = queue_limit
        self._store = store
        self._drafter = drafter
        self._most_rows = CHUNK_ROWS[1]
        if deterministic:
            self._most_rows = min(self._most_rows, getattr(backend, "exact_rows", self._most_rows))
        self._queue: deque[Reading] = deque()
        self._active: list[Reading] = []
        self._speculations: dict[Reading, Speculation] = {}
        self._costs = Costs()
        self._row_s = 0.0  # seconds a row of a chunk takes; 0 before one was measured
        self._turn_of_hidden = False
        self._closed = False
        self._status = EngineStatus(backend.n_sequences)
        self._prepare_threading()

    def _prepare_threading(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._bell = Bell()  # for those whose tokens a step has made

    # Any thread.

    def submit(self, request: Request, context: ContextReport | None = None) -> Generation:
        """Begin an answer. Raises ContextFull, Overloaded, InvalidRequest."""
        self.check_fits(len(request.prompt))
        self._notice_fork()
        stream: Stream[Token] = Stream(self._bell)
        timings, context = Timings(), context or ContextReport()
        answering = Answering(request, self._tokenizer, self.n_ctx, stream, timings, context)
        self._enqueue(answering, stream)
        return Generation(stream, len(request.prompt), timings, context)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """(n, vocab_size) float32: what each position expects next. Raises as `submit`."""
        return self._score(Scoring, [ids], self._backend.config.vocab_size)[0]

    def hidden(self, texts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """The hidden states (n, dim) float32 of each list of ids. Raises as `submit`."""
        return self._score(Embedding, texts, self._backend.config.dim)

    def _score(
        self, kind: type[Scoring], texts: Sequence[Sequence[int]], width: int
    ) -> list[NDArray[np.float32]]:
        for ids in texts:
            self.check_fits(len(ids))
        self._notice_fork()
        outs: list[NDArray[np.float32]] = []
        streams: list[Stream[None]] = []
        try:
            for ids in texts:
                stream: Stream[None] = Stream()
                out = np.empty((len(ids), width), np.float32)
                self._enqueue(kind(ids, out, stream), stream, patient=bool(streams))
                outs.append(out)
                streams.append(stream)
            for stream in streams:
                stream.get()
        finally:
            for stream in streams:
                stream.cancel()
        return outs

    def check_fits(self, n_tokens: int) -> None:
        """Raise ContextFull, in words, if so many tokens are more than the context holds."""
        if n_tokens <= self.n_ctx:
            return
        longest = self._backend.config.context_length
        advice = f"shorten it or load with n_ctx={n_tokens} (--ctx {n_tokens}) or more"
        if n_tokens > longest:
            advice = f"shorten it: the model reads at most {longest:,}"
        raise ContextFull(
            f"the prompt has {n_tokens:,} tokens, the context holds {self.n_ctx:,}; {advice}",
            n_tokens,
            self.n_ctx,
        )

    def status(self) -> EngineStatus:
        """A copy of the present figures."""
        with self._changed:
            status = self._status
            values = {name: getattr(status, name) for name in EngineStatus.__slots__}
            values |= {"active": len(self._active), "queued": len(self._queue)}
            if self._store is not None:
                values |= {"store_hits": self._store.hits, "store_misses": self._store.misses}
            return EngineStatus(**values)

    def close(self) -> None:
        """End every request, wait for the step that runs, and close the backend."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._backend.close()

    def _notice_fork(self) -> None:
        """Begin anew in a forked process: the requests and their readers are the parent's."""
        if self._pid != os.getpid():
            self._queue.clear()
            self._active.clear()
            self._speculations.clear()
            self._slots.reset()
            self._prepare_threading()

    def _enqueue(self, reading: Reading, stream: Stream[Any], *, patient: bool = False) -> None:
        with self._changed:
            if self._closed:
                raise InvalidRequest("the model is closed")
            if len(self._queue) >= self._queue_limit and not patient:
                raise Overloaded(
                    f"{len(self._queue)} requests wait already, {self._queue_limit} may; "
                    "come again later",
                    retry_after=self._seconds_of_queue(),
                )
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edgellama", daemon=True)
                self._thread.start()
            stream.writer = self._thread.ident
            self._status.requests_total += 1
            self._queue.append(reading)
            self._changed.notify_all()

    def _seconds_of_queue(self) -> float:
        """About how long until a place in the queue is free."""
        ended = self._status.requests_total - len(self._queue) - len(self._active)
        busy = self._status.prompt_seconds_total + self._status.predicted_seconds_total
        return max(1.0, busy / max(ended, 1) / self._status.n_parallel)

    # The engine's thread.

    def _run(self) -> None:
        while self._admit():
            try:
                self._step()
            except BaseException as error:
                self._fail(error)
            finally:
                self._bell.ring()

    def _admit(self) -> bool:
        """Give places to those who wait; wait oneself if there is nothing to do. False: end."""
        while True:
            with self._changed:
                self._dismiss()
                if self._closed:
                    return False
                reading = self._next_in_queue() if self._slots.n_free else None
                if reading is not None:
                    self._queue.remove(reading)
                    self._active.append(reading)
                elif self._active:
                    return True
                elif not self._changed.wait(IDLE_S) and not self._queue:
                    self._thread = None
                    return False
            if reading is not None:
                try:
                    self._place(reading)
                except Exception as error:
                    with self._changed:
                        self._leave(reading, error)

    def _dismiss(self) -> None:
        """Let go of those who want no more; of all, if the model was closed."""
        error = InvalidRequest("the model was closed") if self._closed else None
        for reading in [*self._active, *self._queue]:
            if reading.cancelled or self._closed:
                self._leave(reading, error)

    def _next_in_queue(self) -> Reading | None:
        """The first in the queue, or behind it, that need not wait for a neighbour's prompt.

        Whoever begins like a prompt that is being read right now waits for it, and shares it.
        """
        for reading in self._queue:
            if not isinstance(reading, Answering) or not any(
                isinstance(other, Answering)
                and other.n_pending > 1
                and common_prefix(other.tokens, reading.tokens) > other.n_read + CHUNK_ROWS[0]
                for other in self._active
            ):
                return reading
        return None

    def _place(self, reading: Reading) -> None:
        if isinstance(reading, Answering):
            reading.begin(*self._slots.take(reading.tokens))
            if reading.request.speculate:
                drafter = self._drafter or PromptLookup()
                self._speculations[reading] = Speculation(drafter, self._costs)
        else:
            reading.begin(self._slots.take_empty(), 0)

    def _leave(self, reading: Reading, error: BaseException | None = None) -> None:
        """The request is over: its place is free, its stream ends."""
        if reading in self._active:
            self._active.remove(reading)
            if reading.sequence >= 0:
                self._slots.release(reading.sequence)
        else:
            self._queue.remove(reading)
        self._speculations.pop(reading, None)
        if isinstance(reading, Answering):
            self._count(reading.timings)
        reading.end(error)

    def _count(self, timings: Timings) -> None:
        status = self._status
        status.prompt_tokens_total += timings.prompt_n
        status.cached_tokens_total += timings.cache_n
        status.predicted_tokens_total += timings.predicted_n
        status.prompt_seconds_total += timings.prompt_s
        status.predicted_seconds_total += timings.predicted_s
        status.draft_tokens_total += timings.draft_n
        status.draft_accepted_total += timings.draft_accepted_n

    def _step(self) -> None:
        """Read some pending ids of everyone, and let everyone have what came of it."""
        hidden = self._kind_of_step()
        readings = [r for r in self._active if (r.wanted == "hidden") == hidden]
        began = perf_counter()
        guesses = self._guesses(readings)
        pending = [r.n_pending for r in readings]
        parts = _parts(readings, pending, share_rows(pending, self._chunk_rows(pending)), guesses)
        batch = _batch(parts)
        run = self._backend.hidden if hidden else self._backend.forward
        outputs = run(batch)
        elapsed = perf_counter() - began
        self._measure(len(batch), len(parts), elapsed)
        for part in parts:
            self._slots.add(part.reading.sequence, part.ids)
            part.reading.n_read += part.n_rows
        _begin_choices(parts, outputs)
        at = 0
        for part in parts:
            self._hand_over(part.reading, outputs[at : at + part.n_outputs], part.guesses)
            at += part.n_outputs
        status = self._status
        status.steps_total += 1
        status.rows_total += len(batch)
        status.kv_tokens = self._slots.n_held

    def _hand_over(
        self, reading: Reading, outputs: NDArray[np.float32], guesses: Sequence[int]
    ) -> None:
        """Let a request have its rows; what is wrong with it is its own affair."""
        error: BaseException | None = None
        was_prompt = isinstance(reading, Answering) and not reading.timings.predicted_n
        try:
            if len(outputs):
                before = reading.n_read
                reading.take(outputs, guesses)
                if guesses:
                    accepted = max(0, min(reading.n_read - before, len(guesses)))
                    self._speculations[reading].note(len(guesses), accepted)
        except Exception as problem:
            error = problem
        self._slots.forget(reading.sequence, reading.n_read)
        if (was_prompt and reading.n_pending <= 1) or reading.finished:
            self._slots.save(reading.sequence)
        if error is not None or reading.finished:
            with self._changed:
                self._leave(reading, error)

    def _kind_of_step(self) -> bool:
        """Whether this step computes hidden states; the two kinds take turns."""
        hidden = {r.wanted == "hidden" for r in self._active}
        self._turn_of_hidden = hidden == {True} or (len(hidden) == 2 and not self._turn_of_hidden)
        return self._turn_of_hidden

    def _guesses(self, readings: Sequence[Reading]) -> list[int]:
        """Ids to read ahead of being chosen: where one is alone, so that rows are to spare."""
        if len(readings) != 1 or readings[0].n_pending != 1:
            return []
        reading = readings[0]
        speculation = self._speculations.get(reading)
        if speculation is None or not isinstance(reading, Answering):
            return []
        return speculation.guess(reading.tokens, min(reading.room, self._most_rows - 1))

    def _chunk_rows(self, pending: Sequence[int]) -> int:
        """Rows of the next step, so that it takes about as long as it may.

        pending: how many ids of each request wait to be read."""
        least, most = CHUNK_ROWS
        most = min(most, self._most_rows)
        if not self._row_s:
            return min(2 * least, most)
        company = pending.count(1)
        seconds = IN_COMPANY_S if company else ALONE_S
        fitting = int(seconds / self._row_s) // least * least
        return max(min(max(fitting, least) + company, most), min(len(pending), most))

    def _measure(self, n_rows: int, n_readings: int, elapsed: float) -> None:
        if n_readings == 1 and n_rows <= 1 + MOST_GUESSES:
            self._costs.note(n_rows, elapsed)
        if n_rows >= CHUNK_ROWS[0]:
            row_s = elapsed / n_rows
            self._row_s = _MEMORY * self._row_s + (1 - _MEMORY) * row_s if self._row_s else row_s

    def _fail(self, error: BaseException) -> None:
        """A step did not end well: nobody can rely on what the sequences hold."""
        if isinstance(error, MemoryError):
            error = ResourceError("memory gave out in the middle of a step; ask for less at a time")
        with self._changed:
            for reading in list(self._active):
                self._leave(reading, error)
            self._slots.reset()


class _Part(NamedTuple):
    """What a step reads of one request."""

    reading: Reading
    n_rows: int  # pending ids
    ids: list[int]  # these, and the guesses behind them
    guesses: Sequence[int]
    n_outputs: int  # the last rows, whose outputs are wanted


def _parts(
    readings: Sequence[Reading],
    pending: Sequence[int],
    shares: Sequence[int],
    guesses: Sequence[int],
) -> list[_Part]:
    """Some pending ids of each, as its share says; guesses are of the only request."""
    parts = []
    for reading, n_pending, n in zip(readings, pending, shares, strict=True):
        if not n:
            continue
        ids = reading.tokens[reading.n_read : reading.n_read + n]
        n_outputs = n
        behind: Sequence[int] = ()
        if n == n_pending and guesses:
            behind = guesses
            ids += guesses
        if reading.wanted == "last":
            n_outputs = 1 + len(behind) if n == n_pending else 0
        parts.append(_Part(reading, n, ids, behind, n_outputs))
    return parts


def _batch(parts: Sequence[_Part]) -> Batch:
    """The rows of one step."""
    tokens: list[int] = []
    positions: list[int] = []
    sequences: list[int] = []
    wanted: list[bool] = []
    for reading, _, ids, _, n_outputs in parts:
        n, start = len(ids), reading.n_read
        tokens += ids
        positions += range(start, start + n)
        sequences += [reading.sequence] * n
        wanted += [False] * (n - n_outputs) + [True] * n_outputs
    return Batch(
        np.array(tokens, np.int32),
        np.array(positions, np.int32),
        np.array(sequences, np.int32),
        np.array(wanted, np.bool_),
    )


def _begin_choices(parts: Sequence[_Part], outputs: NDArray[np.float32]) -> None:
    """Choose the next id of all that write, as far as one call can do it."""
    draws = []
    row, row_bytes, width = outputs.ctypes.data, outputs.strides[0], outputs.shape[1]
    for part in parts:
        if part.n_outputs == 1:
            draw = part.reading.begin_choice(row, width)
            if draw is not None:
                draws.append(draw)
        row += part.n_outputs * row_bytes
    if draws:
        draw_all(draws)
