"""POST /v1/embeddings: https://platform.openai.com/docs/api-reference/embeddings

Beyond OpenAI's fields: `pooling` (mean, last, cls) and `normalize`.
"""

import asyncio
import base64
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from edgellama.embedding import POOLINGS
from edgellama.llama import Llama

from .exchange import lease, read, reply
from .failures import FieldError
from .fields import Fields

MAX_INPUTS = 2048  # as OpenAI


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts, as token ids or to be tokenized."""

    model: str | None
    inputs: Sequence[str | list[int]]
    pooling: str = "mean"
    normalize: bool = True
    as_base64: bool = False
    dimensions: int | None = None

    def ids(self, llama: Llama) -> list[list[int]]:
        bos = llama.tokenizer.add_bos
        return [llama.tokenize(x, bos=bos) if isinstance(x, str) else x for x in self.inputs]


def parse(body: object) -> EmbeddingRequest:
    """Read a request. Raises InvalidRequest naming the field that cannot be right."""
    fields = Fields(body)
    asked = EmbeddingRequest(
        model=fields.text("model"),
        inputs=_inputs(fields.need("input")),
        pooling=fields.choice("pooling", POOLINGS, "mean"),
        normalize=fields.flag("normalize", True),
        as_base64=fields.choice("encoding_format", ("float", "base64"), "float") == "base64",
        dimensions=fields.whole("dimensions", 1, 2**31 - 1),
    )
    fields.finish()
    return asked


def _inputs(value: object) -> list[str | list[int]]:
    inputs: list[Any] = value if isinstance(value, list) else [value]
    if inputs and all(type(id) is int for id in inputs):
        inputs = [inputs]
    well_formed = all(
        (isinstance(x, str) and x)
        or (isinstance(x, list) and x and all(type(id) is int for id in x))
        for x in inputs
    )
    if not inputs or len(inputs) > MAX_INPUTS or not well_formed:
        raise FieldError(
            "input",
            "input must be a text, a list of token ids, or a list of"
            f" 1 to {MAX_INPUTS:,} of these, none of them empty",
        )
    return inputs


async def embeddings(request: Request) -> Response:
    asked = await read(request, parse)
    async with AsyncExitStack() as stack:
        name, llama = await lease(request, stack, asked.model)
        dim = llama.config.dim
        if asked.dimensions not in (None, dim):
            raise FieldError(
                "dimensions", f"dimensions must be {dim}: this model's vectors cannot be cut"
            )
        ids = await asyncio.to_thread(asked.ids, llama)
        data: list[dict[str, Any]] = []
        # A few at a time, so that a client who leaves stops the rest.
        for start in range(0, len(ids), llama.n_parallel):
            vectors = await asyncio.to_thread(
                llama.embed,
                ids[start : start + llama.n_parallel],
                pooling=asked.pooling,
                normalize=asked.normalize,
            )
            for vector in vectors:
                shown = _base64(vector) if asked.as_base64 else vector.tolist()
                data.append({"object": "embedding", "index": len(data), "embedding": shown})
    n_tokens = sum(len(tokens) for tokens in ids)
    request.state.log = f"{n_tokens} tokens"
    return reply(
        {
            "object": "list",
            "data": data,
            "model": name,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
    )


def _base64(vector: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    """Little-endian float32, as OpenAI's clients decode it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
