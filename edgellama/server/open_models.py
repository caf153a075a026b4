"""The models of a server's settings, and the folder of prefixes that they share."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from edgellama.llama import Llama
from edgellama.prefix_store import PrefixStore

from .loaded_models import LoadedModels
from .settings import Settings

MAX_WAITING = 64  # requests that are being prepared, or embedded, at once

log = logging.getLogger("edgellama.server")


class OpenModels:
    """Opens models as the settings say; `loaded` is what serves them."""

    def __init__(self, settings: Settings, progress: Callable[[str], None] | None) -> None:
        self._settings = settings
        self._options = {"progress": progress, **settings.llama}
        self._own_store: PrefixStore | None = None
        if settings.prefix_cache:
            self._own_store = PrefixStore(max_bytes=settings.prefix_cache, report=log.warning)
            self._options["prefix_store"] = self._own_store
        self.prefix_store: PrefixStore | None = self._options.get("prefix_store")
        self.first = next(iter(settings.models))

    def open(self, name: str) -> Llama:
        """Raises what Llama raises."""
        return Llama(self._settings.models[name], **self._options)

    def loaded(self, first: Llama | None) -> LoadedModels:
        """All of them, to be served by one event loop; the first one if it is open already."""
        loaded = LoadedModels(
            tuple(self._settings.models),
            self.open,
            max_loaded=self._settings.max_loaded,
            idle_unload_s=self._settings.idle_unload_s,
        )
        if first is not None:
            loaded.put(self.first, first)
        return loaded

    def close(self) -> None:
        if self._own_store is not None:
            self._own_store.close()


def waiting_threads() -> ThreadPoolExecutor:
    """Threads for requests; they mostly wait: for a tokenizer, or for embeddings that are made."""
    return ThreadPoolExecutor(MAX_WAITING)
