"""The models in the server's own process: less memory, no second interpreter, and one death."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from .app import create_app
from .open_models import OpenModels, waiting_threads
from .prometheus import Counts
from .settings import Settings


class InProcess:
    """The application itself answers. Raises what opening the first model raises."""

    def __init__(self, settings: Settings, counts: Counts) -> None:
        self._settings = settings
        self._counts = counts
        self._models = OpenModels(settings, settings.progress)
        try:
            self._first = self._models.open(self._models.first)
        except BaseException:
            self._models.close()
            raise

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ASGIApp]:
        asyncio.get_running_loop().set_default_executor(waiting_threads())
        app = create_app(self._settings, self._models.loaded(self._first), self._counts)
        app.state.prefix_store = self._models.prefix_store
        async with app.router.lifespan_context(app):
            yield app

    def close(self) -> None:
        self._first.close()
        self._models.close()
