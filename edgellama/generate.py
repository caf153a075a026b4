"""`Generation`: one answer as it comes, for plain loops and for event loops.

    for token in llm.generate("Once"): ...          async for token in llm.generate("Once"): ...
    answer = llm.generate("Once").read()            answer = await llm.generate("Once").aread()

The engine works on it from the moment it is made, whether it is being read or not; closing it, or
dropping it, ends it before the next step.
"""

import weakref
from collections.abc import AsyncIterator, Callable, Iterator

from .answer import Answer, ContextReport, Timings, Token
from .stream import Stream

SEEDS = 2**64  # how many there are; behind the last comes 0


class Generation(Iterator[Token], AsyncIterator[Token]):
    """An iterator of `Token`, in both worlds.

    Raises from the iteration: ModelFormatError if the model computes what is no number,
    ResourceError if memory gives out, InvalidRequest if the sampling options leave no token to
    choose or the model was closed.
    """

    def __init__(
        self,
        stream: Stream[Token],
        prompt_tokens: int,
        timings: Timings,
        context: ContextReport,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.timings = timings
        self.context = context
        self._stream = stream
        self._seen: list[Token] = []
        # The engine knows the stream only, so an answer that nobody holds any more ends.
        weakref.finalize(self, stream.cancel).atexit = False

    def __next__(self) -> Token:
        token = self._stream.get()
        if token is None:
            raise StopIteration
        self._seen.append(token)
        return token

    async def __anext__(self) -> Token:
        token = await self._stream.aget()
        if token is None:
            raise StopAsyncIteration
        self._seen.append(token)
        return token

    async def ready(self) -> list[Token]:
        """All tokens that are there by now, at least one; [] at the end."""
        tokens = await self._stream.aget_all()
        self._seen += tokens
        return tokens

    def close(self) -> None:
        """Want no more: what was chosen so far can still be read."""
        self._stream.cancel()

    def read(self) -> Answer:
        """Wait for the end; the whole answer, with the tokens that were already iterated over."""
        for _ in self:
            pass
        return self._answer()

    async def aread(self) -> Answer:
        """`read` in an event loop."""
        while await self.ready():
            pass
        return self._answer()

    def _answer(self) -> Answer:
        return Answer(
            text="".join(token.text for token in self._seen),
            tokens=[token.id for token in self._seen],
            finish_reason=self._seen[-1].finish_reason if self._seen else None,
            prompt_tokens=self.prompt_tokens,
            timings=self.timings,
            context=self.context,
        )


def seed_of(seed: int | None, i: int) -> int | None:
    """The seed of answer i of several."""
    return None if seed is None else (int(seed) + i) % SEEDS  # numpy's integers would overflow


def begin_answers(
    begin: Callable[[int | None], Generation], n: int, seed: int | None
) -> list[Generation]:
    """`n` answers, each begun with its seed: `seed`, seed + 1, ...; without one all have None.

    If one of them cannot begin, those before it end.
    """
    generations: list[Generation] = []
    try:
        for i in range(n):
            # the first is passed as it is: begin refuses what is none
            generations.append(begin(seed if i == 0 else seed_of(seed, i)))
    except BaseException:
        for generation in generations:
            generation.close()
        raise
    return generations
