"""Answers as they are read: of one request, side by side, and all requests at a common pace.

Looking for tokens and sending them costs more than the tokens, so all answers together are looked
at some 400 times a second. Alone an answer is read token by token; of 16, each every 40 ms, and
what has become ready by then is one piece.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager

from edgellama.answer import Token
from edgellama.generate import Generation

LOOK_S = 0.0025
_n_open = 0  # answers that are being made in this process


@contextmanager
def counted(generations: Sequence[Generation]) -> Iterator[None]:
    """Answers that are being made, while the context lasts; its end ends them."""
    global _n_open
    _n_open += len(generations)
    try:
        yield
    finally:
        _n_open -= len(generations)
        for generation in generations:
            generation.close()


async def in_turn(
    generations: Sequence[Generation],
) -> AsyncGenerator[list[tuple[int, list[Token]]], None]:
    """What is ready of several answers: (index, tokens) of each that has some; [] at its end."""
    if len(generations) == 1:  # the usual case needs no tasks
        async for tokens in pieces(generations[0]):
            yield [(0, tokens)]
        yield [(0, [])]
        return
    waiting = {asyncio.ensure_future(g.ready()): i for i, g in enumerate(generations)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            ready = sorted((waiting.pop(task), task.result()) for task in done)
            yield ready
            for i, tokens in ready:
                if tokens:
                    waiting[asyncio.ensure_future(generations[i].ready())] = i
            await _pause()
    finally:
        for task in waiting:
            task.cancel()


async def tokens_of(generation: Generation) -> list[Token]:
    """All tokens of an answer, once it has ended."""
    return [token async for tokens in pieces(generation) for token in tokens]


async def pieces(generation: Generation) -> AsyncGenerator[list[Token], None]:
    """The tokens of an answer, as many at a time as are ready."""
    while tokens := await generation.ready():
        yield tokens
        if tokens[-1].finish_reason is None:
            await _pause()


async def _pause() -> None:
    """Wait for more where many are written; all wake together."""
    if _n_open > 1:
        interval = LOOK_S * _n_open
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(interval - now % interval)
