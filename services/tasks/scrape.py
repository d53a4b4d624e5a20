"""`web.scrape`: what a web page says about itself."""

from __future__ import annotations

import os
import re
import time
from typing import Annotated, TypedDict

import msgspec

from services.tasks.address_guard import AddressGuard, parse_allow
from taskq_core.errors import Permanent

__all__ = ["Scraped", "scrape"]

type Url = Annotated[str, msgspec.Meta(min_length=1, max_length=2000, description="an http or https address")]
type Seconds = Annotated[float, msgspec.Meta(ge=0.1, le=60, description="seconds for everything together")]

DEFAULT_TIMEOUT_S = 20.0
_READABLE = re.compile(r"text/(html|plain|xml)|application/(xhtml\+xml|xml)", re.IGNORECASE)


class Scraped(TypedDict):
    """What `web.scrape` gives."""

    url: str  # where the page was found in the end
    status: int
    title: str | None
    description: str | None
    links: list[str]
    text_length: int  # characters
    elapsed: float  # seconds


async def scrape(url: Url, timeout: Seconds = DEFAULT_TIMEOUT_S) -> Scraped:
    """Fetch a page and tell its title, description, links and length.

    Private and loopback addresses are refused, except those in TASKQ_SCRAPE_ALLOW. A server that is down,
    slow or answers 5xx or 429 is asked again later; any other refusal fails at once.
    """
    # A third of a second of imports that a process needs only when it fetches.
    from services.tasks.charset import decode_page  # noqa: PLC0415
    from services.tasks.http_fetch import PageRefused, fetch  # noqa: PLC0415
    from services.tasks.page_fence import MarkupRefused, summarise  # noqa: PLC0415

    started = time.monotonic()
    guard = AddressGuard(parse_allow(os.environ.get("TASKQ_SCRAPE_ALLOW", "")))
    try:
        fetched = await fetch(url, timeout, guard)
        _check_type(fetched.content_type)
        summary = await summarise(decode_page(fetched.body, fetched.content_type), fetched.url)
    except (PageRefused, MarkupRefused) as error:
        raise Permanent(str(error)) from error
    return Scraped(
        url=fetched.url,
        status=fetched.status,
        title=summary.title,
        description=summary.description,
        links=summary.links,
        text_length=summary.text_length,
        elapsed=round(time.monotonic() - started, 3),
    )


def _check_type(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip()
    if kind and not _READABLE.fullmatch(kind):
        raise Permanent(f"it is {kind[:60]!r}, not a page")
