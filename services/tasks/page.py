"""What a page says: title, description, links, amount of text.

Runs by itself as well: `python page.py BASE_URL < page.html` prints the same as JSON, with limits on time
and memory, for markup that may be made to eat both (see `page_fence`). So it imports no neighbour.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ["PageSummary", "clean", "read_page"]

MAX_LINKS = 200
MAX_LINK = 500  # characters
MAX_LINKS_BYTES = 64 * 1024
MAX_TITLE = 300
MAX_DESCRIPTION = 1000
CHILD_MEMORY = 512 * 1024 * 1024
CHILD_CPU_S = 5
_UNSEEN = ("script", "style", "noscript", "template", "iframe", "svg")
_SPACE = re.compile(r"\s+")


class PageSummary(NamedTuple):
    """What is kept of a page; all text is plain and bounded."""

    title: str | None
    description: str | None
    links: list[str]  # absolute http(s), each once, in the order of the page
    text_length: int  # characters of visible text, white space counted once


def read_page(html: str, url: str) -> PageSummary:
    """Summarise a page that was found at `url`. Raises ValueError when it cannot be parsed."""
    tree = LexborHTMLParser(html)
    title = _text_of(tree.css_first("head title") or tree.css_first("title"))
    described = tree.css_first("meta[name='description' i]") or tree.css_first(
        "meta[property='og:description']"
    )
    description = _attribute(described, "content") if described else None
    base = tree.css_first("base[href]")
    links = list(_links(tree, _joined(url, _attribute(base, "href")) if base else url))
    return PageSummary(
        clean(title, MAX_TITLE) or None,
        clean(description or "", MAX_DESCRIPTION) or None,
        links,
        _text_length(tree),
    )


def clean(text: str, limit: int) -> str:
    """Plain text in one line: no control, direction or zero-width characters; cut at `limit` characters."""
    # Enough for any honest text; the rest is not looked at.
    start = _SPACE.sub(" ", text[: limit * 20]).strip()
    seen = "".join(char for char in start if unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co"})
    return seen if len(seen) <= limit else seen[: limit - 1] + "…"


def _text_of(node: LexborNode | None) -> str:
    return node.text() if node is not None else ""


def _attribute(node: LexborNode, name: str) -> str:
    return node.attributes.get(name) or ""


def _text_length(tree: LexborHTMLParser) -> int:
    tree.strip_tags(list(_UNSEEN))
    body = tree.body
    return len(_SPACE.sub(" ", body.text(separator=" ")).strip()) if body is not None else 0


def _links(tree: LexborHTMLParser, base: str) -> Iterator[str]:
    seen: set[str] = set()
    room = MAX_LINKS_BYTES
    for node in tree.css("a[href], area[href]"):
        link = _link(base, _attribute(node, "href"))
        if link is None or link in seen:
            continue
        seen.add(link)
        room -= len(link.encode("utf-8", "replace"))
        if room < 0:
            return
        yield link
        if len(seen) >= MAX_LINKS:
            return


def _link(base: str, href: str) -> str | None:
    """The absolute address, without its fragment; None for mail, scripts, passwords and nonsense."""
    absolute = _joined(base, href.strip()).partition("#")[0]
    if len(absolute) > MAX_LINK or clean(absolute, MAX_LINK) != absolute or " " in absolute:
        return None
    try:
        parts = urlsplit(absolute)
        fit = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc
    except ValueError:
        return None
    return parts.geturl() if fit else None


def _joined(base: str, href: str) -> str:
    try:
        return urljoin(base, href)
    except ValueError:
        return ""


def _main() -> None:
    _limit_self()
    html = sys.stdin.buffer.read().decode("utf-8", "replace")
    json.dump(read_page(html, sys.argv[1]), sys.stdout)


def _limit_self() -> None:
    import resource  # noqa: PLC0415  # POSIX only, and only for the child

    resource.setrlimit(resource.RLIMIT_CPU, (CHILD_CPU_S, CHILD_CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY, CHILD_MEMORY))
    except ValueError:  # macOS does not take it; the limit on time stays
        return


if __name__ == "__main__":
    _main()
