"""One request's choice of tokens."""

import math
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgellama.draw import Draw, draw_all
from edgellama.errors import InvalidRequest
from edgellama.tokenizer import Tokenizer

from .candidates import Candidates, nothing_left, softmax_weights
from .chain import active_steps, build, step_name
from .memory import Memory
from .params import SamplingParams
from .plain import is_plain, plain_draw
from .probabilities import check_finite, log_sum


class Constraint(Protocol):
    """What tokens may come next, by a grammar for instance."""

    @property
    def finished(self) -> bool:
        """Nothing but an end may follow."""

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy, (vocab_size,), with -inf where a token may not come next."""

    def in_time(self, id: int) -> int:
        """`id`, or what must come in its place for the answer to be complete within its limit."""

    def accept(self, id: int) -> object:
        """`id` was chosen."""

    def undo(self, n: int) -> object:
        """The last n that were accepted are taken back."""


class Sampler:
    """Chooses the tokens of one request: `sampler(logits)` is the next id.

    A request owns its random generator: the same seed, prompt and model give the same tokens,
    whatever else runs. At most one random number is drawn for a token, none at temperature 0.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int] = (),
        constraint: Constraint | None = None,
        tokenizer: Tokenizer | None = None,
        *,
        logprobs: bool = False,
    ) -> None:
        """logprobs: whether `log_sum` and `logprob` are told with each choice.

        Raises InvalidRequest for a logit_bias outside the tokenizer's vocabulary (without a
        tokenizer the first logits tell), and for DRY's breakers without a tokenizer."""
        self.params = params
        steps = active_steps(params)
        self.chain = tuple(map(step_name, steps))  # what acts, in order
        # Of the last choice, in natural logarithms, as the model itself says:
        self.log_sum = math.nan  # a logit less this is the token's probability
        self.logprob = math.nan  # that of the choice
        self._logprobs = logprobs
        self._excludes_top = "xtc" in steps
        self._steers = "mirostat" in steps
        self._memory = Memory(params, prompt, tokenizer)
        self._steps = build(params, self._memory)
        self._constraint = constraint
        biases = dict(params.logit_bias)
        self._biased_ids = np.fromiter(biases, np.int64, len(biases))
        self._biases = np.fromiter(biases.values(), np.float32, len(biases))
        self._draw: Draw | None = None  # the whole chain in one step, where it is plain
        if is_plain(self.chain, params):
            self._draw = plain_draw(self.chain, params, self._biased_ids, self._biases, logprobs)
        self._has_begun = False  # the step for the next token is taken already
        # PCG64 by name: default_rng may become another generator in a later numpy.
        self._random = np.random.Generator(np.random.PCG64(params.seed))
        self._ids: NDArray[np.int64] = np.arange(0)  # all there are, once that is known
        if tokenizer is not None:
            self._check_biased_ids(tokenizer.vocab_size)

    @property
    def seen(self) -> list[int]:
        """The prompt and what was chosen since: a copy."""
        return self._memory.seen.tolist()

    def begin(self, address: int, n: int) -> Draw | None:
        """What `draw_all` can do of the next choice, for many requests at once; None: nothing.

        The logits, n float32 at `address`, stay until the sampler is called for them, which ends
        the choice.
        """
        draw = self._draw
        if draw is None or self._constraint is not None or self.params.top_k > n:
            return None
        if n != len(self._ids):
            self._learn_size(n)
        draw.ask(address, n, self._chance())
        self._has_begun = True
        return draw

    def __call__(self, logits: NDArray[np.float32], forbidden: Collection[int] = ()) -> int:
        """The next id from logits (vocab_size,) float32, none of `forbidden`.

        Raises `ModelFormatError` on NaN, and `InvalidRequest` if everything is excluded.
        """
        if not self._has_begun:
            logits = np.ascontiguousarray(logits, np.float32)
            draw = None if forbidden else self.begin(logits.ctypes.data, len(logits))
            if draw is not None:
                draw_all([draw])
        token = self._end(logits) if self._has_begun else self._choose(logits, forbidden)
        self._memory.push(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def undo(self, n: int) -> None:
        """Forget the last n choices, except that their random numbers are spent."""
        self._memory.undo(n)
        if self._constraint is not None:
            self._constraint.undo(n)

    def _end(self, logits: NDArray[np.float32]) -> int:
        """What the step that was begun has chosen."""
        self._has_begun = False
        draw = self._draw
        assert draw is not None
        if not draw.finite:
            check_finite(logits)
        if self._logprobs:
            logit, best, mass = draw.mass
            self.log_sum = best + math.log(mass)
            self.logprob = logit - self.log_sum
        return _chosen(draw)

    def _choose(self, logits: NDArray[np.float32], forbidden: Collection[int]) -> int:
        """A choice that the step cannot make alone."""
        check_finite(logits)
        if len(logits) != len(self._ids):
            self._learn_size(len(logits))
        allowed = self._allowed(logits, forbidden)
        if self._draw is not None and self.params.top_k <= len(logits):
            self._draw.ask(allowed.ctypes.data, len(allowed), self._chance())
            draw_all([self._draw])
            token = _chosen(self._draw)
        else:
            token = self._link_by_link(allowed)
        if self._constraint is not None:
            timely = self._constraint.in_time(token)
            token = token if timely in forbidden else timely
        if self._logprobs:
            self.log_sum = log_sum(logits)
            self.logprob = float(logits[token]) - self.log_sum
        return token

    def _allowed(
        self, logits: NDArray[np.float32], forbidden: Collection[int]
    ) -> NDArray[np.float32]:
        """The logits, at -inf what constraint and caller exclude."""
        if self._constraint is not None:
            logits = self._constraint.mask(logits)
        if forbidden:
            logits = logits.copy()
            logits[list(forbidden)] = -np.inf
        return logits

    def _link_by_link(self, logits: NDArray[np.float32]) -> int:
        """An id as likely as the chain leaves it, or the best."""
        if len(self._biases):
            logits = logits.copy()
            logits[self._biased_ids] += self._biases
        candidates = Candidates(self._ids, logits)
        chance = self._chance()
        for step in self._steps:
            candidates = step(candidates)
        if self.params.temperature == 0:
            place = int(candidates.logits.argmax())
            if candidates.logits[place] == -np.inf:
                raise nothing_left()
            return int(candidates.ids[place])
        mass = softmax_weights(candidates.logits).cumsum()
        place = int(mass.searchsorted(chance * mass[-1], side="right"))
        if self._steers:
            before = mass[place - 1] if place else 0.0
            self._memory.mirostat.learn(float((mass[place] - before) / mass[-1]))
        return int(candidates.ids[place])

    def _chance(self) -> float:
        """A random number below 1, 0 where nothing is left to it."""
        params = self.params
        if params.temperature == 0:
            return 0.0
        chance = self._random.random()
        if self._excludes_top:
            # One number serves both: what is left of it after the first decision is uniform again.
            p = params.xtc_probability
            self._memory.excludes_top = chance < p
            chance = chance / p if chance < p else (chance - p) / (1 - p)
        return min(chance, 1 - 2**-52)  # its share of the mass is then less than all of it

    def _learn_size(self, vocab_size: int) -> None:
        self._check_biased_ids(vocab_size)
        self._ids = np.arange(vocab_size)

    def _check_biased_ids(self, vocab_size: int) -> None:
        if len(self._biased_ids) and self._biased_ids[-1] >= vocab_size:  # they rise
            raise InvalidRequest(
                f"logit_bias: token {self._biased_ids[-1]} is not in the vocabulary, which holds 0"
                f" to {vocab_size - 1}"
            )


def _chosen(draw: Draw) -> int:
    if draw.id < 0:
        raise nothing_left()
    return draw.id
