"""Who may ask: the name a request calls the server by, the page it comes from, its key.

A page in a browser can send requests to any address, this machine's included. The Host check stops
a foreign name that was made to point here (DNS rebinding), the Origin check a foreign page.
"""

import hmac
import ipaddress
from hashlib import sha256

from .settings import Settings, is_loopback


class Access:
    """The checks of one server; each is a pure question."""

    def __init__(self, settings: Settings) -> None:
        names = {"localhost", "127.0.0.1", "::1", settings.host.lower()}
        self._names = names | {name.lower().strip("[]") for name in settings.allow_hosts}
        # Served to a network, it is asked for by addresses that we cannot list. They are no danger:
        # it takes a name to rebind.
        self._any_address = not is_loopback(settings.host)
        self._origins = {origin.lower().rstrip("/") for origin in settings.allow_origins}
        self._keys = [sha256(key.encode()).digest() for key in settings.api_keys]

    def host_allowed(self, host: str) -> bool:
        """Whether `host`, the header's value with or without a port, is a name of this server."""
        name = _without_port(host)
        if name in self._names:
            return True
        return self._any_address and _is_address(name)

    def foreign_origin_allowed(self, origin: str) -> bool:
        """Whether pages of this other origin were allowed to ask."""
        return origin.lower() in self._origins

    def origin_allowed(self, origin: str | None, host: str) -> bool:
        """Whether a request may come from `origin`: no page at all, our own, or an allowed one."""
        if origin is None:
            return True
        own = {f"http://{host.lower()}", f"https://{host.lower()}"}
        return origin.lower() in own or self.foreign_origin_allowed(origin)

    def key_accepted(self, authorization: str | None) -> bool:
        """Whether `Authorization: Bearer KEY` opens; the time it takes tells nothing of the key."""
        if not self._keys:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        digest = sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        found = [hmac.compare_digest(digest, known) for known in self._keys]
        return scheme.lower() == "bearer" and any(found)


def _without_port(host: str) -> str:
    """'[::1]:8080' -> '::1', 'localhost:8080' -> 'localhost'."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
