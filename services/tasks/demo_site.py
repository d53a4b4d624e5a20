"""A small website on this machine, so that the demonstration scrapes something without the internet."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from html import escape
from http import HTTPStatus
from typing import Any, NamedTuple

import tornado.web

__all__ = ["PAGES", "make_site"]

SLOW_S = 1.5
REMEMBERED_VISITS = 10_000


class Page(NamedTuple):
    """One page of the town."""

    title: str
    description: str
    text: str
    links: tuple[str, ...]


PAGES: dict[str, Page] = {
    "/": Page(
        "Port Ansel",
        "A small harbour town and what happens in it.",
        "Port Ansel has one quay, two pubs and a clock that is never right.",
        ("/harbour", "/market", "/tides", "/library", "/missing"),
    ),
    "/harbour": Page(
        "The harbour",
        "Boats at the quay and those expected.",
        "Eleven boats lie at the quay this morning; the ferry is expected at noon.",
        ("/", "/boats", "/tides", "/lighthouse"),
    ),
    "/boats": Page(
        "Boats",
        "Every boat that calls Port Ansel home.",
        "The Marigold, the Second Thought, the Halibut and eight dinghies without a name.",
        ("/harbour", "/boatyard"),
    ),
    "/boatyard": Page(
        "The boatyard",
        "Repairs, paint and patience.",
        "Hulls are scraped in spring, painted in summer and argued about in winter.",
        ("/boats", "/market"),
    ),
    "/tides": Page(
        "Tide table",
        "High and low water at the quay.",
        "High water 06:12 and 18:40, low water 00:20 and 12:31. Mind the bar.",
        ("/harbour", "/lighthouse"),
    ),
    "/lighthouse": Page(
        "The lighthouse",
        "One flash every eight seconds since 1871.",
        "The lamp was oil, then gas, then electric; the keeper's cat was always grey.",
        ("/tides", "/gallery"),
    ),
    "/market": Page(
        "Market day",
        "What is sold on the square on Thursdays.",
        "Mackerel, samphire, rope by the yard, and a cheese that has its own stall for good reason.",
        ("/", "/boatyard", "/gallery"),
    ),
    "/library": Page(
        "The library",
        "Four thousand books and a stove.",
        "The reading room closes when the librarian has finished her chapter.",
        ("/", "/gallery", "/history"),
    ),
    "/history": Page(
        "A short history",
        "From the first jetty to the last storm.",
        "The first jetty was built in 1604 and washed away in 1605. The second was built of stone.",
        ("/library", "/lighthouse", "/missing"),
    ),
    "/gallery": Page(
        "Gallery",
        "Paintings of the sea by people who live beside it.",
        "Most of the pictures are of waves. One is of a dog looking at waves.",
        ("/lighthouse", "/library"),
    ),
}


def make_site() -> tornado.web.Application:
    """The site: the pages, `/missing` (404), `/flaky` (503, then 200), `/slow`, `/moved` (a redirect)."""
    routes: list[Any] = [
        (r"/flaky", _Flaky, {"seen": OrderedDict[str, None]()}),
        (r"/slow", _Slow),
        (r"/moved", tornado.web.RedirectHandler, {"url": "/harbour", "permanent": False}),
        (r"(/.*)", _Town),
    ]
    return tornado.web.Application(routes, log_function=_say_nothing)


def _say_nothing(_: tornado.web.RequestHandler) -> None:
    """The demonstration's own failures are no news for the log."""


class _Handler(tornado.web.RequestHandler):
    def show(self, page: Page) -> None:
        self.write(_render(page))  # pyright: ignore[reportUnknownMemberType]  # tornado says `dict`

    def write_error(self, status_code: int, **_: Any) -> None:
        phrase = HTTPStatus(status_code).phrase
        self.show(Page(f"{status_code} {phrase}", phrase, "Try the quay instead.", ("/",)))


class _Town(_Handler):
    def get(self, path: str) -> None:
        page = PAGES.get(path)
        if page is None:
            raise tornado.web.HTTPError(HTTPStatus.NOT_FOUND)
        self.show(page)


class _Flaky(_Handler):
    """Fails for each `visit` the first time it is seen."""

    def initialize(self, seen: OrderedDict[str, None]) -> None:
        self.seen = seen

    def get(self) -> None:
        visit = self.get_query_argument("visit", "")[:100]
        if visit in self.seen:
            del self.seen[visit]
            self.show(Page("The ferry", "It runs after all.", "Delayed by fog, now boarding.", ("/harbour",)))
            return
        self.seen[visit] = None
        if len(self.seen) > REMEMBERED_VISITS:
            self.seen.popitem(last=False)
        raise tornado.web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE)


class _Slow(_Handler):
    async def get(self) -> None:
        await asyncio.sleep(SLOW_S)
        self.show(Page("The slow page", "It takes its time.", "The clerk was at lunch.", ("/",)))


def _render(page: Page) -> str:
    links = "".join(
        f'<li><a href="{escape(link)}">{escape(link.strip("/") or "home")}</a></li>' for link in page.links
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(page.title)}</title>"
        f'<meta name="description" content="{escape(page.description)}"></head>'
        f"<body><h1>{escape(page.title)}</h1><p>{escape(page.text)}</p><ul>{links}</ul></body></html>"
    )
