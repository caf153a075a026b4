"""What handlers do with a request, and what they answer with."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from edgellama import __version__
from edgellama.generate import Generation
from edgellama.llama import Llama

from . import strict_json
from .loaded_models import LoadedModels
from .reading import counted

T = TypeVar("T")
FINGERPRINT = f"edgellama-{__version__}"


async def read(request: Request, parse: Callable[[Any], T]) -> T:
    """What `parse` makes of the body's JSON value; raises InvalidRequest.

    In a thread: a long body or a large schema must not hold up those who stream.
    """
    body = await request.body()
    return await asyncio.to_thread(lambda: parse(strict_json.parse(body)))


def reply(value: object) -> Response:
    return Response(
        strict_json.dump(value),
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


def models_of(request: Request) -> LoadedModels:
    models: LoadedModels = request.app.state.models
    return models


async def lease(request: Request, stack: AsyncExitStack, model: str | None) -> tuple[str, Llama]:
    """(id, model) that a request asks for, held until `stack` is closed."""
    models = models_of(request)
    name = models.name_of(model)
    return name, await stack.enter_async_context(models.lease(name))


async def begin(
    request: Request, stack: AsyncExitStack, start: Callable[[], Sequence[Generation]]
) -> Sequence[Generation]:
    """The answers that `start` begins, ended with `stack`; how many tokens goes to the log.

    In a thread, as a long prompt takes its time to become tokens.
    """
    generations = await asyncio.to_thread(start)

    def log_tokens() -> None:
        n_prompt = sum(g.prompt_tokens for g in generations)
        n_predicted = sum(g.timings.predicted_n for g in generations)
        request.state.log = f"{n_prompt}+{n_predicted} tokens"

    stack.callback(log_tokens)
    stack.enter_context(counted(generations))
    return generations


def new_id(kind: str) -> str:
    """Such as "chatcmpl-" and 24 digits."""
    return kind + secrets.token_hex(12)
