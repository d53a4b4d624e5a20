"""Who may speak to this address at all: known host names, no foreign pages, no keys in addresses. Pure.

A page of any site can make a visitor's browser send requests to a loopback address (cross-site requests)
or give that address a name of its own (DNS rebinding). Neither gets past here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

from taskq_core.errors import ConfigError, Forbidden, Unauthenticated

__all__ = ["KEY_WORDS", "Guard", "is_loopback", "refuse_keys_in_query"]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
KEY_WORDS = frozenset({"token", "access_token", "api_key", "apikey", "key", "authorization", "bearer"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """The checks of one server."""

    def __init__(
        self, host: str, *, allowed_hosts: Iterable[str] = (), trusted_origins: Iterable[str] = ()
    ) -> None:
        """`host`: listened on; beyond loopback any name is taken unless `allowed_hosts` says which.

        `trusted_origins` are exact (scheme://host[:port]). Raises ConfigError for what is none.
        """
        configured = frozenset(name.lower() for name in allowed_hosts)
        self._hosts = configured | LOOPBACK_NAMES if configured or is_loopback(host) else None
        self._origins = frozenset(_origin(origin) for origin in trusted_origins)

    def check_host(self, host: str) -> None:
        """Raises Forbidden for a Host header that is not ours."""
        if self._hosts is not None and _name(host) not in self._hosts:
            raise Forbidden("this host name is not served here")

    def check_site(self, method: str, protocol: str, host: str, origin: str | None, site: str | None) -> None:
        """Raises Forbidden when a page of another site asks for a change."""
        if method in _SAFE:
            return
        if origin is not None and not self.is_ours(origin, protocol, host):
            raise Forbidden("requests from other sites are refused")
        if site not in {None, "same-origin", "none"} and origin not in self._origins:
            raise Forbidden("requests from other sites are refused")

    def is_ours(self, origin: str, protocol: str, host: str) -> bool:
        """Whether an Origin is this server's own, or one that was configured; always in full."""
        return origin == f"{protocol}://{host}" or origin in self._origins


def refuse_keys_in_query(names: Collection[str]) -> None:
    """Raises Unauthenticated: addresses end up in logs and histories, keys must not."""
    if any(name.lower() in KEY_WORDS for name in names):
        raise Unauthenticated("a key never goes into an address; send Authorization: Bearer tq_…")


def _name(host: str) -> str:
    """The name without the port, in lower case."""
    host = host.lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.netloc
        or text != f"{parts.scheme}://{parts.netloc}"
    ):
        raise ConfigError(f"{text[:80]!r} is not an origin: write it like https://tasks.example.org")
    return text.lower()
