"""An HTTP transport that decides where to connect before it connects.

A host name is resolved once; the addresses are judged; the connection goes to a judged address and to no
other, so a name that resolves differently the second time gains nothing. Host header and TLS name stay
those of the URL.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from ipaddress import ip_address
from ssl import SSLContext

import httpx

from services.tasks.address_guard import Address, AddressGuard

__all__ = ["AddressRefused", "GuardedTransport", "Resolver", "resolve_with_system", "single_use"]

type Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]

MAX_TRIES = 4
_PORTS = {"http": 80, "https": 443}


class AddressRefused(Exception):
    """The host is, or resolves to, an address that must not be fetched from."""


async def resolve_with_system(host: str, port: int) -> Sequence[Address]:
    """The addresses of a host as the machine's resolver sees them. Raises OSError when there are none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0])) for entry in found))


class GuardedTransport(httpx.AsyncBaseTransport):
    """Connects to judged addresses only."""

    def __init__(
        self,
        guard: AddressGuard,
        resolve: Resolver = resolve_with_system,
        inner: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._guard = guard
        self._resolve = resolve
        self._inner = inner or single_use(_tls())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request. Raises AddressRefused, or what httpx raises."""
        addresses = await self._judged(request.url)
        error: httpx.ConnectError | None = None
        for address in addresses[:MAX_TRIES]:
            try:
                return await self._inner.handle_async_request(_pinned(request, address))
            except httpx.ConnectError as failure:
                error = failure
        raise error or httpx.ConnectError(f"{request.url.host} has no address", request=request)

    async def aclose(self) -> None:
        """Close what is open."""
        await self._inner.aclose()

    async def _judged(self, url: httpx.URL) -> list[Address]:
        port = url.port or _PORTS[url.scheme]
        try:
            found = await self._resolve(url.raw_host.decode("ascii"), port)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that is too long or empty
            raise httpx.ConnectError(f"the name {url.host} could not be resolved: {error}") from error
        judged = {address: self._guard.refusal(address, port) for address in found}
        open_to_us = [address for address, reason in judged.items() if reason is None]
        if judged and not open_to_us:
            address, reason = next(iter(judged.items()))
            at = "" if str(address) == url.host else f" is {address}, which"
            raise AddressRefused(f"{url.host}{at} may not be fetched from: {reason}")
        return open_to_us


def _pinned(request: httpx.Request, address: Address) -> httpx.Request:
    name = request.url.raw_host.decode("ascii")
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,  # the Host header was made from the URL and stays
        extensions={**request.extensions, "sni_hostname": name},
    )


def single_use(tls: SSLContext) -> httpx.AsyncHTTPTransport:
    """A transport whose connections serve one request each.

    A kept connection would be used for another name behind the same address, whose certificate nobody has
    checked.
    """
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits)


@cache
def _tls() -> SSLContext:
    # Reading the certificates takes longer than fetching a page.
    return httpx.create_ssl_context()
