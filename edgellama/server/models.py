"""GET /v1/models and /v1/models/{id}: what is served."""

import asyncio
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgellama.errors import EdgellamaError
from edgellama.llama import Llama

from .exchange import models_of, reply
from .loaded_models import LoadedModels


async def list_models(request: Request) -> Response:
    models = models_of(request)
    data = [await _describe(models, name) for name in models.names]
    return reply({"object": "list", "data": data})


async def get_model(request: Request) -> Response:
    models = models_of(request)
    return reply(await _describe(models, models.name_of(request.path_params["id"])))


async def _describe(models: LoadedModels, name: str) -> dict[str, Any]:
    """OpenAI's fields, and llama-server's `meta` of a model that is loaded."""
    llama = dict(models.open_now()).get(name)
    model: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": models.created,
        "owned_by": "edgellama",
        "status": {"value": "unloaded" if llama is None else "loaded"},
    }
    if llama is not None:
        model["meta"] = {
            "n_ctx": llama.n_ctx,
            "n_ctx_train": llama.config.context_length,
            "n_embd": llama.config.dim,
            "n_parallel": llama.n_parallel,
            "n_vocab": llama.config.vocab_size,
            # In a thread: a template is rendered to be recognised, the first time.
            "chat_format": await asyncio.to_thread(_chat_format, llama),
        }
    return model


def _chat_format(llama: Llama) -> str | None:
    """Its name; None for a base model, and for a template that cannot be used."""
    with suppress(EdgellamaError):
        if llama.chat_format is not None:
            return llama.chat_format.name
    return None
