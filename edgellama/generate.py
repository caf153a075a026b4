"""From prompt ids to text: prefill, then one token a step.

    prompt (n,) ids --prefill--> logits --sampler--> id --> text, held back while it may still
                        ^                             |     become a stop string
                        +---------- decode -----------+

`Session` is one sequence of a backend together with the ids whose keys and values the backend
holds, so a prompt that begins like the last one only costs what differs. `Generation` is one
answer: an iterator of `Token`, with its `Timings`.
"""

import signal
import threading
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from types import FrameType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .backends import Backend, Batch
from .errors import ContextFull, InvalidRequest
from .sampling import Sampler, SamplingParams, log_probability
from .tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]

# A prefill looks up for Ctrl-C between chunks of rows: many, so that a weight once read serves them
# all, but only so many as take about half a second. No result depends on it.
CHUNK_ROWS = 32, 256  # least and most
CHUNK_SECONDS = 0.5
# Ids of the prompt that a continuation's decoder sees first: enough to know that the text has
# begun, so that a leading space stays.
_PRIMING_IDS = 16


@dataclass(frozen=True, slots=True)
class Token:
    """One step of an answer."""

    text: str  # new text, often one word; empty while a character or stop string is incomplete
    id: int
    logprob: float  # natural logarithm of the model's own probability, before any sampling option
    finish_reason: FinishReason | None = None  # set on the last: stop id or string, or no room


@dataclass(slots=True)
class Timings:
    """What an answer cost; seconds spent by its reader between two tokens are not counted."""

    cache_n: int = 0  # prompt ids that the cache already held
    prompt_n: int = 0  # prompt ids that were run
    prompt_s: float = 0.0
    first_token_s: float = 0.0  # from the start of the prefill to the first token
    predicted_n: int = 0  # tokens chosen, the stop id included
    predicted_s: float = 0.0  # from the first token to the last

    @property
    def prompt_per_second(self) -> float:
        return self.prompt_n / self.prompt_s if self.prompt_s > 0 else 0.0

    @property
    def predicted_per_second(self) -> float:
        """The first token comes out of the prefill, so n tokens are n - 1 steps."""
        return (self.predicted_n - 1) / self.predicted_s if self.predicted_s > 0 else 0.0

    def as_dict(self) -> dict[str, float]:
        rates = {
            "prompt_per_second": self.prompt_per_second,
            "predicted_per_second": self.predicted_per_second,
        }
        return asdict(self) | rates


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    text: str
    tokens: list[int]  # every id that was chosen, the stop id included
    finish_reason: FinishReason | None  # None: closed before its end
    prompt_tokens: int
    timings: Timings


class Session:
    """One sequence of a backend, and the ids that its cache holds.

    Threads take turns: an answer or a `logits` call has the session to itself until it ends.
    """

    def __init__(self, backend: Backend, sequence: int = 0) -> None:
        self.n_ctx = backend.n_ctx
        self.tokens: list[int] = []
        self._backend: Backend | None = backend
        self._sequence = sequence
        self._vocab_size = backend.config.vocab_size
        self._context_length = backend.config.context_length
        self._turn = threading.Lock()
        self._owner: int | None = None  # thread that has the turn
        self._step = threading.Lock()  # held while the backend runs, so that close() can wait

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have the session alone; raises InvalidRequest rather than wait for oneself forever."""
        if self._owner == threading.get_ident():
            raise InvalidRequest(
                "an earlier answer of this thread is unfinished: read it to its end or close() it"
            )
        with self._turn:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None

    def check_fits(self, n_tokens: int) -> None:
        """Raise ContextFull, in words, if so many tokens are more than the context holds."""
        if n_tokens <= self.n_ctx:
            return
        advice = f"shorten it or load with n_ctx={n_tokens} (--ctx {n_tokens}) or more"
        if n_tokens > self._context_length:
            advice = f"shorten it: the model reads at most {self._context_length:,}"
        raise ContextFull(
            f"the prompt has {n_tokens:,} tokens, the context holds {self.n_ctx:,}; {advice}"
        )

    def begin(self, prompt: Sequence[int]) -> int:
        """Forget what `prompt` does not begin with; returns how many of its ids are kept.

        One id at least is left to run, because its logits are wanted.
        """
        kept = min(_common_prefix(self.tokens, prompt), len(prompt) - 1)
        self.forget(kept)
        return kept

    def forget(self, n_kept: int = 0) -> None:
        """Keep the first `n_kept` ids only."""
        # The list first: interrupted in between, it may be shorter than the cache, never longer.
        del self.tokens[n_kept:]
        with self._step, _whole_step():
            self._open().rewind(self._sequence, n_kept)

    def run(
        self, ids: Sequence[int], wanted: Literal["last", "all", "none"]
    ) -> NDArray[np.float32]:
        """Append ids: (wanted rows, vocab_size) logits."""
        batch = Batch.of(ids, self._sequence, len(self.tokens), wanted)
        with self._step, _whole_step():
            logits = self._open().forward(batch)
            self.tokens.extend(ids)
        return logits

    def prefill(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Append ids, one or more: logits (vocab_size,) of the last."""
        *_, (_, logits) = self._run_in_chunks(ids, "last")
        last: NDArray[np.float32] = logits[0]
        return last

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits (n, vocab_size) of every position, from an empty cache."""
        self.check_fits(len(ids))
        with self.turn():
            self.forget()
            logits = np.empty((len(ids), self._vocab_size), np.float32)
            for start, rows in self._run_in_chunks(ids, "all"):
                logits[start : start + len(rows)] = rows
        return logits

    def _run_in_chunks(
        self, ids: Sequence[int], wanted: Literal["last", "all"]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(index of the first id, logits of the wanted rows) of each chunk."""
        least, most = CHUNK_ROWS
        start, n_rows = 0, 2 * least
        while start < len(ids):
            chunk = ids[start : start + n_rows]
            at_end = start + len(chunk) == len(ids)
            began = perf_counter()
            yield start, self.run(chunk, wanted if wanted == "all" or at_end else "none")
            elapsed = perf_counter() - began
            start += len(chunk)
            fitting = int(len(chunk) * CHUNK_SECONDS / max(elapsed, 1e-6))
            n_rows = min(max(fitting // least * least, least), most)

    def close(self) -> None:
        """Wait for a step that runs, then end the backend; later steps are refused."""
        with self._step:
            if self._backend is not None:
                self._backend.close()
            self._backend = None

    def _open(self) -> Backend:
        if self._backend is None:
            raise InvalidRequest("the model is closed")
        return self._backend


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


@contextmanager
def _whole_step() -> Iterator[None]:
    """Make Ctrl-C wait until a step has ended: a team of threads must not be left half-way.

    Only where Ctrl-C would raise KeyboardInterrupt at all; another handler is its owner's affair.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


class StopStrings:
    """Lets text through up to the first stop string, and never a part of one.

    Text that may be the beginning of a stop string is held back until the next text decides.
    """

    def __init__(self, strings: Collection[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text to show, whether a stop string was reached)."""
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


class Generation(Iterator[Token]):
    """One answer as it comes: iterate over its tokens, or `read()` it whole.

    Nothing runs before the first token is asked for. `close()` ends it early; so does dropping it.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        *,
        params: SamplingParams,
        max_tokens: int | None = None,
        stop_ids: Collection[int] = frozenset(),
        stop_strings: Collection[str] = (),
        continues: bool = True,
    ) -> None:
        """An answer to `prompt`, one or more ids of the vocabulary.

        max_tokens None goes on until the context is full. `continues`: the text goes on where the
        prompt's ends (a completion), else it begins anew (a reply), which matters to a leading
        space. Raises ContextFull if the prompt does not fit.
        """
        session.check_fits(len(prompt))
        self.prompt_tokens = len(prompt)
        self.timings = Timings()
        self._seen: list[Token] = []
        # The last token needs no place of its own in the cache.
        room = session.n_ctx - len(prompt) + 1
        self._tokens = _generate(
            session,
            tokenizer,
            list(prompt),
            params=params,
            n_tokens=room if max_tokens is None else min(max_tokens, room),
            stop_ids=stop_ids,
            stop_strings=StopStrings(stop_strings),
            continues=continues,
            timings=self.timings,
        )

    def __next__(self) -> Token:
        token = next(self._tokens)
        self._seen.append(token)
        return token

    def close(self) -> None:
        """End the answer and let others have the session."""
        self._tokens.close()

    def read(self) -> Answer:
        """Go on to the end; the whole answer, with the tokens that were already iterated over."""
        for _ in self:
            pass
        return Answer(
            text="".join(token.text for token in self._seen),
            tokens=[token.id for token in self._seen],
            finish_reason=self._seen[-1].finish_reason if self._seen else None,
            prompt_tokens=self.prompt_tokens,
            timings=self.timings,
        )


# A plain generator that knows nothing of its Generation: without a cycle of references, a dropped
# answer ends at once and not at the next garbage collection.
def _generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: list[int],
    *,
    params: SamplingParams,
    n_tokens: int,
    stop_ids: Collection[int],
    stop_strings: StopStrings,
    continues: bool,
    timings: Timings,
) -> Generator[Token, None, None]:
    sampler = Sampler(params, prompt)
    decoder = tokenizer.stream()
    if continues:
        for token in prompt[-_PRIMING_IDS:]:
            decoder.push(token)
    with session.turn():
        started = perf_counter()
        timings.cache_n = session.begin(prompt)
        logits = session.prefill(prompt[timings.cache_n :])
        timings.prompt_n = len(prompt) - timings.cache_n
        resumed = perf_counter()
        timings.prompt_s = resumed - started
        while True:
            token = sampler(logits)
            logprob = log_probability(logits, token)
            ended = token in stop_ids
            last = ended or timings.predicted_n + 1 >= n_tokens
            text, cut = stop_strings.push("" if ended else decoder.push(token))
            if last and not cut:
                rest, cut = stop_strings.push(decoder.flush())
                text += rest if cut else rest + stop_strings.flush()
            finish: FinishReason | None = "stop" if ended or cut else "length" if last else None
            timings.predicted_n += 1
            if timings.predicted_n == 1:
                timings.first_token_s = perf_counter() - started
            else:
                timings.predicted_s += perf_counter() - resumed
            yield Token(text, token, logprob, finish)
            if finish:
                return
            resumed = perf_counter()
            logits = session.run([token], "last")[0]
