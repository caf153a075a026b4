"""The models of a server: opened when first asked for, closed when nobody asks any more."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic, time

from edgellama.errors import ModelChanged, Overloaded
from edgellama.llama import Llama

from .failures import ApiError

DEFAULT = "default"  # what a request may call the first model
WAIT_SECONDS = 30.0  # for a model to become idle, where another has to make room

log = logging.getLogger("edgellama.server")


@dataclass(slots=True)
class _Place:
    """One model, open or not."""

    llama: Llama | None = None
    opening: asyncio.Task[None] | None = None
    users: int = 0  # requests that hold or want it
    idle_since: float = 0.0


class LoadedModels:
    """At most `max_loaded` open models; one event loop uses them all."""

    def __init__(
        self,
        names: Sequence[str],
        open_model: Callable[[str], Llama],
        *,
        max_loaded: int,
        idle_unload_s: float | None,
    ) -> None:
        """open_model: opens the model of a name; called in a thread."""
        self.names = tuple(names)
        self.created = int(time())
        self._open_model = open_model
        self._max_loaded = max_loaded
        self._idle_unload_s = idle_unload_s
        self._places = {name: _Place() for name in names}
        self._changing = asyncio.Lock()  # held while a model is opened or closed
        self._released = asyncio.Event()  # set whenever a model becomes idle

    def put(self, name: str, llama: Llama) -> None:
        """Take a model that is open already."""
        self._places[name].llama = llama
        self._places[name].idle_since = monotonic()

    def name_of(self, asked: str | None) -> str:
        """The id of the model that a request asks for; ApiError 404 naming those there are."""
        if asked is None or (asked == DEFAULT and asked not in self._places):
            return self.names[0]
        if asked not in self._places:
            raise ApiError(
                404,
                f"there is no model {asked[:100]!r} here; choose {', '.join(self.names)}",
                code="model_not_found",
                param="model",
            )
        return asked

    def open_now(self) -> Iterator[tuple[str, Llama]]:
        """The models in memory."""
        for name, place in self._places.items():
            if place.llama is not None:
                yield name, place.llama

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Llama]:
        """A model, open as long as the context lasts.

        Raises what opening it raises, and Overloaded if all others are busy for too long.
        """
        place = self._places[name]
        place.users += 1
        try:
            while place.llama is None:
                if place.opening is None:
                    place.opening = asyncio.create_task(self._open(name, place))
                # Shielded: others may wait for it too, when the client that began it has left.
                await asyncio.shield(place.opening)
            try:
                place.llama.check_file()
            except ModelChanged:
                if place.users == 1:  # who asks next has it opened again
                    await self._close(name)
                raise
            yield place.llama
        finally:
            place.users -= 1
            if not place.users:
                place.idle_since = monotonic()
                self._released.set()

    async def _open(self, name: str, place: _Place) -> None:
        try:
            async with self._changing:
                await self._make_room()
                began = monotonic()
                place.llama = await asyncio.to_thread(self._open_model, name)
                log.info("loaded %s in %.1f s", name, monotonic() - began)
        finally:
            place.opening = None

    async def _make_room(self) -> None:
        """Close the model that was idle longest, if another would be one too many."""
        deadline = monotonic() + WAIT_SECONDS
        while sum(place.llama is not None for place in self._places.values()) >= self._max_loaded:
            idle = self._idle()
            if idle:
                await self._close(min(idle, key=lambda name: self._places[name].idle_since))
                continue
            self._released.clear()
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + WAIT_SECONDS):
                    await self._released.wait()
            except TimeoutError:
                pass
            if monotonic() > deadline:
                raise Overloaded(
                    f"{self._max_loaded} models are loaded and all of them busy; ask again later"
                    " or start the server with a larger --max-loaded",
                    retry_after=10,
                )

    async def close_idle(self) -> None:
        """Close, again and again, what was idle for too long; runs until cancelled."""
        limit = self._idle_unload_s
        while limit is not None:
            await asyncio.sleep(min(limit / 4, 5.0))
            async with self._changing:
                for name in self._idle():
                    if monotonic() - self._places[name].idle_since >= limit:
                        await self._close(name)

    async def close(self) -> None:
        for name, _ in list(self.open_now()):
            await self._close(name)

    def _idle(self) -> list[str]:
        return [
            name
            for name, place in self._places.items()
            if place.llama is not None and not place.users
        ]

    async def _close(self, name: str) -> None:
        place = self._places[name]
        llama, place.llama = place.llama, None
        if llama is not None:
            await asyncio.to_thread(llama.close)
            log.info("unloaded %s", name)
