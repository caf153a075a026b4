"""The application: which path is whose, around the models of one server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import (
    chat_completions,
    completions,
    embeddings,
    metrics,
    models,
    page_files,
    responses,
    tokens,
)
from .door import Door
from .failures import ApiError
from .loaded_models import LoadedModels
from .prometheus import Counts
from .settings import Settings

ROUTES = (
    ("POST", "/v1/chat/completions", chat_completions.chat_completions),
    ("POST", "/v1/completions", completions.completions),
    ("POST", "/v1/responses", responses.responses),
    ("POST", "/v1/embeddings", embeddings.embeddings),
    ("GET", "/v1/models", models.list_models),
    ("GET", "/v1/models/{id}", models.get_model),
    ("POST", "/tokenize", tokens.tokenize),
    ("POST", "/detokenize", tokens.detokenize),
    ("POST", "/apply-template", tokens.apply_template),
    ("GET", "/health", metrics.health),
    ("GET", "/v1/health", metrics.health),
    ("GET", "/metrics", metrics.metrics),
    ("GET", "/", page_files.page_file),
    ("GET", "/{name}", page_files.page_file),
)


def create_app(settings: Settings, loaded: LoadedModels, counts: Counts | None = None) -> Starlette:
    """The whole ASGI application; it closes the models when it ends."""
    counts = counts or Counts()
    door = Middleware(Door, settings=settings, answered=counts.answered)
    return create_inner_app(loaded, [door], counts)


def create_inner_app(
    loaded: LoadedModels, middleware: Sequence[Middleware], counts: Counts | None = None
) -> Starlette:
    """The same behind another door. counts: what is counted there, where /metrics tells of it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        unloading = asyncio.create_task(loaded.close_idle())
        try:
            yield
        finally:
            unloading.cancel()
            with suppress(asyncio.CancelledError):
                await unloading
            await loaded.close()

    app = Starlette(
        routes=[Route(path, handler, methods=[method]) for method, path, handler in ROUTES],
        middleware=middleware,
        exception_handlers={HTTPException: _no_route},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.models = loaded
    app.state.counts = counts
    app.state.prefix_store = None
    return app


async def _no_route(request: Request, error: Exception) -> Response:
    """What starlette itself refuses, in our words; the door tells it."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:100]
    if error.status_code == 405:
        methods = (error.headers or {}).get("Allow", "")
        raise ApiError(
            405, f"{path} takes {methods}, not {request.method}", headers={"allow": methods}
        )
    raise ApiError(error.status_code, f"there is nothing at {path}", code="not_found")
