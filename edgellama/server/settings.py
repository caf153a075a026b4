"""What a server is told when it starts."""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgellama.errors import InvalidRequest

SHIPPED = "tiny"  # the id of the model that ships with edgellama


@dataclass(frozen=True, slots=True)
class Settings:
    """Raises InvalidRequest for what would not be safe or cannot be."""

    models: Mapping[
        str, Path | None
    ]  # id -> file, None: the model that ships; the first is default
    host: str = "127.0.0.1"
    port: int = 8080  # 0: any that is free
    api_keys: tuple[str, ...] = ()  # any of them opens; none: no key is asked for
    insecure: bool = False  # serve other machines without a key
    allow_hosts: frozenset[str] = frozenset()  # further names that requests may call this server
    allow_origins: frozenset[str] = frozenset()  # pages elsewhere that may ask
    timeout_s: float = 600.0  # an answer takes no longer
    idle_unload_s: float | None = None  # a model nobody asks for is closed after it; None: never
    max_loaded: int = 3  # models in memory at a time
    llama: Mapping[str, Any] = field(default_factory=dict)  # how each is opened: options of Llama
    prefix_cache: int = 0  # bytes on disk for what was read; 0: nothing is kept
    progress: Callable[[str], None] | None = None  # told what opening a model waits for
    own_process: bool = True  # whether the models have one: a death there is not the server's

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InvalidRequest(f"port must be a number from 0 to 65535, not {self.port}")
        if not self.timeout_s > 0 or not (self.idle_unload_s is None or self.idle_unload_s > 0):
            raise InvalidRequest("a time limit must be more than 0 seconds")
        if self.max_loaded < 1:
            raise InvalidRequest(f"at least one model must be loaded, not {self.max_loaded}")
        if not all(key and key.isascii() and key.isprintable() for key in self.api_keys):
            raise InvalidRequest("an API key must be printable ASCII, and not empty")
        if not (is_loopback(self.host) or self.api_keys or self.insecure):
            raise InvalidRequest(
                f"{self.host} can be reached from other machines: give a key with --api-key-file or"
                " EDGELLAMA_API_KEY, or say --insecure if anyone may ask"
            )

    def for_worker(self) -> dict[str, Any]:
        """What the process of the models has to know, as plain data."""
        return {
            "models": {name: path and str(path) for name, path in self.models.items()},
            "idle_unload_s": self.idle_unload_s,
            "max_loaded": self.max_loaded,
            "llama": dict(self.llama),
            "prefix_cache": self.prefix_cache,
        }


def models_of(arguments: list[str]) -> dict[str, Path | None]:
    """Models by id, from FILE or NAME=FILE each; the id of a FILE is its name without suffix.

    Raises InvalidRequest for a file that is not there and for an id given twice.
    """
    models: dict[str, Path | None] = {}
    for argument in arguments:
        path = Path(argument)
        name = path.stem
        if "=" in argument and not path.exists():
            name, _, file = argument.partition("=")
            path = Path(file)
        if not path.is_file():
            raise InvalidRequest(f"{path}: there is no such model file")
        if not name or name in models:
            raise InvalidRequest(
                f"{argument}: the model id {name!r} is empty or taken; choose one as in NAME={path}"
            )
        models[name] = path
    return models or {SHIPPED: None}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
