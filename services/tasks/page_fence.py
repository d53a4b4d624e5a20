"""Parsing a page without trusting its markup.

HTML that is small to send can be dear to parse: 120 KB of unclosed formatting elements become a tree of
1 GB, nesting and attributes cost time with their square (measured with selectolax 1.0). A page that cannot
do much harm is parsed here; any other in a child process with a limit on memory and time. Both run on
threads of their own, so the event loop goes on.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from services.tasks import page
from services.tasks.page import PageSummary, read_page

__all__ = ["MarkupRefused", "is_tame", "summarise"]

# Within these the worst markup found takes about 100 MB, or 2 s outside the interpreter's lock.
TAME_LENGTH = 256 * 1024
TAME_TAGS = 5_000
TAME_NODES = 300_000
CHILD_WAIT_S = 15.0
_FORMATTING = re.compile(r"<(?:b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)[\s/>]", re.IGNORECASE)
_POOL = ThreadPoolExecutor(2, "taskq-page")


class MarkupRefused(ValueError):
    """The markup needs more memory or time than a page is worth."""


async def summarise(html: str, url: str) -> PageSummary:
    """Read a page that was found at `url`. Raises MarkupRefused."""
    reader = read_page if is_tame(html) else _read_in_child
    try:
        return await asyncio.get_running_loop().run_in_executor(_POOL, reader, html, url)
    except MarkupRefused:
        raise
    except ValueError as error:
        raise MarkupRefused(f"the page cannot be parsed: {error}") from error


def is_tame(html: str) -> bool:
    """Whether the page is too small to do harm, whatever is in it.

    Every element is written with a `<`, or is a formatting element that the parser opens again for a later
    one; so tags times formatting tags bounds the tree.
    """
    if len(html) > TAME_LENGTH:
        return False
    tags = html.count("<")
    formatting = len(_FORMATTING.findall(html))
    return tags <= TAME_TAGS and tags * (1 + formatting) <= TAME_NODES


def _read_in_child(html: str, url: str) -> PageSummary:
    command = [sys.executable, "-I", str(Path(page.__file__)), url]
    try:
        done = subprocess.run(
            command,
            input=html.encode("utf-8", "replace"),
            capture_output=True,
            timeout=CHILD_WAIT_S,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise MarkupRefused("the page's markup takes too much memory or time to read") from error
    return PageSummary(*json.loads(done.stdout))
