"""Fetching one page from a server that may be hostile.

Bounded in every direction: where it connects, how often it is sent elsewhere, how long it takes in all, how
many bytes arrive and how many they become. Header bytes are bounded by h11 (100 KiB).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

import httpx

from services.tasks.address_guard import AddressGuard
from services.tasks.guarded_transport import (
    AddressRefused,
    GuardedTransport,
    Resolver,
    resolve_with_system,
)

__all__ = ["MAX_BODY", "MAX_REDIRECTS", "Fetched", "PageRefused", "PageUnavailable", "fetch"]

MAX_BODY = 2 * 1024 * 1024  # bytes, as sent and as unpacked
MAX_REDIRECTS = 5
MAX_URL = 2000
HEADERS = {
    "User-Agent": "taskq-scrape/1",
    "Accept": "text/html, application/xhtml+xml, text/plain;q=0.5",
    # What `_Unpacker` can undo within its bounds.
    "Accept-Encoding": "gzip, deflate",
}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_PACKED = frozenset({"gzip", "x-gzip", "deflate"})
_HEADERS_TOO_LARGE = 431
_AUTO_WBITS = 32 + zlib.MAX_WBITS  # gzip or zlib, by their first bytes


class PageRefused(Exception):
    """The page cannot be had, and asking again would not help."""


class PageUnavailable(Exception):
    """The page cannot be had now; it may be there later."""


class Fetched(NamedTuple):
    """A page as it arrived."""

    url: str  # of the last hop
    status: int
    content_type: str
    body: bytes  # unpacked


async def fetch(
    url: str,
    timeout: float,
    guard: AddressGuard,
    resolve: Resolver = resolve_with_system,
) -> Fetched:
    """Get a page, following redirects, in at most `timeout` seconds for everything together.

    Raises PageRefused or PageUnavailable.
    """
    try:
        async with asyncio.timeout(timeout), GuardedTransport(guard, resolve) as transport:
            return await _follow(transport, _checked(url))
    except TimeoutError as error:
        raise PageUnavailable(f"no whole answer within {timeout:g} s") from error
    except AddressRefused as error:
        raise PageRefused(str(error)) from error
    except httpx.HTTPError as error:
        raise _translated(error) from error


async def _follow(transport: GuardedTransport, url: httpx.URL) -> Fetched:
    # No httpx.AsyncClient: it would bring cookies, proxies and passwords out of the environment.
    for _ in range(MAX_REDIRECTS + 1):
        response = await transport.handle_async_request(httpx.Request("GET", url, headers=HEADERS))
        try:
            if response.status_code not in _REDIRECTS:
                return await _take(response, url)
            url = _next_hop(response, url)
        finally:
            await response.aclose()
    raise PageRefused(f"more than {MAX_REDIRECTS} redirects")


async def _take(response: httpx.Response, url: httpx.URL) -> Fetched:
    status = response.status_code
    if not response.is_success:
        answer = f"the server answered {status} {response.reason_phrase}".strip()[:200]
        passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING
        raise PageUnavailable(answer) if passing else PageRefused(answer)
    body = await _read(response)
    return Fetched(str(url), status, response.headers.get("content-type", ""), body)


async def _read(response: httpx.Response) -> bytes:
    unpacker = _Unpacker(response.headers.get("content-encoding", ""))
    arrived = 0
    # Raw pieces: httpx would unpack each of them without a bound.
    async for piece in response.aiter_raw():
        arrived += len(piece)
        if arrived > MAX_BODY or not unpacker.feed(piece):
            raise PageRefused(f"the page is larger than {MAX_BODY // 2**20} MiB")
    return bytes(unpacker.body)


class _Unpacker:
    """Undoes gzip or deflate, never holding more than MAX_BODY."""

    def __init__(self, encoding: str) -> None:
        name = encoding.strip().lower()
        if name not in _PACKED | {"", "identity"}:
            raise PageRefused(f"the page is packed as {name[:40]!r}, which was not asked for")
        self._inflate = zlib.decompressobj(_AUTO_WBITS).decompress if name in _PACKED else None
        self.body = bytearray()

    def feed(self, piece: bytes) -> bool:
        """Take a piece; False when the page has become too large."""
        self.body += piece if self._inflate is None else self._unpacked(self._inflate, piece)
        return len(self.body) <= MAX_BODY

    def _unpacked(self, inflate: Callable[[bytes, int], bytes], piece: bytes) -> bytes:
        try:
            return inflate(piece, MAX_BODY - len(self.body) + 1)
        except zlib.error as error:
            raise PageRefused(f"the page is not packed as it says: {error}") from error


def _next_hop(response: httpx.Response, url: httpx.URL) -> httpx.URL:
    location = response.headers.get("location")
    if not location:
        raise PageRefused(f"the server answered {response.status_code} without saying where to go")
    try:
        target = url.join(location)
    except httpx.InvalidURL as error:
        raise PageRefused(f"it leads to an address that cannot be read: {error}") from error
    return _checked(str(target))


def _checked(text: str) -> httpx.URL:
    """A URL that may be asked for. Raises PageRefused."""
    if len(text) > MAX_URL:
        raise PageRefused(f"the URL is longer than {MAX_URL} characters")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise PageRefused(f"the URL cannot be read: {error}") from error
    if url.scheme not in {"http", "https"}:
        raise PageRefused(f"only http and https are fetched, not {url.scheme[:20]!r}")
    if url.userinfo:
        raise PageRefused("a URL with a user name or password is not fetched")
    if not url.host or "%" in url.host or url.port == 0 or (url.port or 1) > 65535:
        raise PageRefused("the URL has no host and port that could be asked")
    return url.copy_with(fragment=None)


def _translated(error: httpx.HTTPError) -> Exception:
    if _has_large_headers(error):
        return PageRefused("the header lines of the answer are too large")
    if isinstance(error, httpx.UnsupportedProtocol):
        return PageRefused(str(error))
    if isinstance(error, httpx.TimeoutException):
        return PageUnavailable("the server did not answer in time")
    return PageUnavailable(f"{str(error) or type(error).__name__}"[:500])


def _has_large_headers(error: BaseException | None) -> bool:
    """h11 gives up on endless header lines with the status that a server would answer."""
    while error is not None:
        if getattr(error, "error_status_hint", None) == _HEADERS_TOO_LARGE:
            return True
        error = error.__cause__ or error.__context__
    return False
