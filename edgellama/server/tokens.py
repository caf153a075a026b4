"""POST /tokenize, /detokenize and /apply-template, as llama-server has them.

{"content": text, "add_special": false, "parse_special": true, "with_pieces": false}
    -> {"tokens": [id] or [{"id", "piece"}]}
{"tokens": [id]} -> {"content": text}
{"messages": [...], "tools": [...]} -> {"prompt": text, "n_tokens": its length in tokens}
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edgellama.errors import InvalidRequest
from edgellama.llama import Llama

from .exchange import lease, read, reply
from .fields import Fields


async def tokenize(request: Request) -> Response:
    fields = await read(request, Fields)
    model, content = fields.text("model"), fields.need("content")
    bos, special = fields.flag("add_special"), fields.flag("parse_special", True)
    pieces = fields.flag("with_pieces")
    fields.finish()
    if not isinstance(content, str):
        raise fields.wrong("content", "a string", content)
    async with AsyncExitStack() as stack:
        _, llama = await lease(request, stack, model)
        bos = bos and llama.tokenizer.add_bos
        ids = await asyncio.to_thread(llama.tokenize, content, bos=bos, special=special)
    return reply({"tokens": [_with_piece(llama, id) for id in ids] if pieces else ids})


async def detokenize(request: Request) -> Response:
    fields = await read(request, Fields)
    model, ids = fields.text("model"), fields.need("tokens")
    fields.finish()
    if not isinstance(ids, list) or not all(type(id) is int for id in ids):
        raise fields.wrong("tokens", "a list of token ids", ids)
    async with AsyncExitStack() as stack:
        _, llama = await lease(request, stack, model)
        text = await asyncio.to_thread(llama.detokenize, ids)
    return reply({"content": text})


async def apply_template(request: Request) -> Response:
    fields = await read(request, Fields)
    model, messages = fields.text("model"), fields.need("messages")
    tools = fields.items("tools") or []
    fields.finish()
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise fields.wrong("messages", "a list of messages", messages)
    async with AsyncExitStack() as stack:
        _, llama = await lease(request, stack, model)
        ids = await asyncio.to_thread(_prompt, llama, messages, tools)
        pieces = b"".join(llama.tokenizer.piece(id) for id in ids)
    return reply({"prompt": pieces.decode(errors="replace"), "n_tokens": len(ids)})


def _prompt(llama: Llama, messages: Any, tools: Any) -> list[int]:
    if llama.chat_format is None:
        raise InvalidRequest("this model has no chat template: it continues text")
    return llama.chat_format.prompt(llama.tokenizer, messages, tools=tools)


def _with_piece(llama: Llama, id: int) -> dict[str, Any]:
    """A piece that is no UTF-8 of its own is a list of bytes."""
    piece = llama.tokenizer.piece(id)
    try:
        return {"id": id, "piece": piece.decode()}
    except UnicodeDecodeError:
        return {"id": id, "piece": list(piece)}
