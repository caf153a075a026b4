"""One request's choice of tokens."""

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgellama.errors import InvalidRequest
from edgellama.tokenizer import Tokenizer

from .candidates import Candidates, nothing_left, softmax_weights
from .chain import active_steps, build, step_name
from .memory import Memory
from .params import SamplingParams
from .plain import draw_plain, is_plain
from .probabilities import check_finite


class Constraint(Protocol):
    """What tokens may come next, by a grammar for instance."""

    @property
    def finished(self) -> bool:
        """Nothing but an end may follow."""

    def mask(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy, (vocab_size,), with -inf where a token may not come next."""

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
    ) -> None:
        """Raises InvalidRequest for a logit_bias outside the tokenizer's vocabulary (without a
        tokenizer the first logits tell), and for DRY's breakers without a tokenizer."""
        self.params = params
        steps = active_steps(params)
        self.chain = tuple(map(step_name, steps))  # what acts, in order
        self._excludes_top = "xtc" in steps
        self._steers = "mirostat" in steps
        self._memory = Memory(params, prompt, tokenizer)
        self._steps = build(params, self._memory)
        self._constraint = constraint
        self._is_plain = is_plain(self.chain, params)
        biases = dict(params.logit_bias)
        self._biased_ids = np.fromiter(biases, np.int64, len(biases))
        self._biases = np.fromiter(biases.values(), np.float32, len(biases))
        # PCG64 by name: default_rng may become another generator in a later numpy.
        self._random = np.random.Generator(np.random.PCG64(params.seed))
        self._ids: NDArray[np.int64] = np.arange(0)  # all there are, once that is known
        if tokenizer is not None:
            self._check_biased_ids(tokenizer.vocab_size)

    @property
    def seen(self) -> list[int]:
        """The prompt and what was chosen since: a copy."""
        return self._memory.seen.tolist()

    def __call__(self, logits: NDArray[np.float32], forbidden: Collection[int] = ()) -> int:
        """The next id from logits (vocab_size,) float32, none of `forbidden`.

        Raises `ModelFormatError` on NaN, and `InvalidRequest` if everything is excluded.
        """
        check_finite(logits)
        candidates = self._candidates(logits, forbidden)
        if self.params.temperature == 0:
            for step in self._steps:
                candidates = step(candidates)
            place = candidates.logits.argmax()
            if candidates.logits[place] == -np.inf:
                raise nothing_left()
            token = int(candidates.ids[place])
        else:
            token = self._draw(candidates)
        self._memory.push(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def undo(self, n: int) -> None:
        """Forget the last n choices, except that their random numbers are spent."""
        self._memory.undo(n)
        if self._constraint is not None:
            self._constraint.undo(n)

    def _candidates(self, logits: NDArray[np.float32], forbidden: Collection[int]) -> Candidates:
        """All there are, at -inf what may not be chosen."""
        if len(self._ids) != len(logits):
            self._check_biased_ids(len(logits))
            self._ids = np.arange(len(logits))
        if self._constraint is not None:
            logits = self._constraint.mask(logits)
        if len(self._biases) or forbidden:
            logits = logits.copy()
            logits[self._biased_ids] += self._biases
            logits[list(forbidden)] = -np.inf
        return Candidates(self._ids, logits)

    def _draw(self, candidates: Candidates) -> int:
        """An id as likely as the chain leaves it."""
        params, memory = self.params, self._memory
        chance = self._random.random()
        if self._excludes_top:
            # One number serves both: what is left of it after the first decision is uniform again.
            p = params.xtc_probability
            memory.excludes_top = chance < p
            chance = chance / p if chance < p else (chance - p) / (1 - p)
        chance = min(chance, 1 - 2**-52)  # its share of the mass is then less than all of it
        if self._is_plain and params.top_k <= len(candidates.logits):
            return draw_plain(candidates.logits, self.chain, params, chance)
        for step in self._steps:
            candidates = step(candidates)
        mass = softmax_weights(candidates.logits).cumsum()
        place = int(mass.searchsorted(chance * mass[-1], side="right"))
        if self._steers:
            before = mass[place - 1] if place else 0.0
            memory.mirostat.learn(float((mass[place] - before) / mass[-1]))
        return int(candidates.ids[place])

    def _check_biased_ids(self, vocab_size: int) -> None:
        if len(self._biased_ids) and self._biased_ids[-1] >= vocab_size:  # they rise
            raise InvalidRequest(
                f"logit_bias: token {self._biased_ids[-1]} is not in the vocabulary, which holds 0"
                f" to {vocab_size - 1}"
            )
