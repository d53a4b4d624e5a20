"""GET /: one page for people who open the address in a browser. It asks nothing of other sites."""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from importlib.resources import files

from services.api.handlers import ApiHandler
from services.api.problems import MethodNotAllowed
from taskq_core import __version__

__all__ = ["PageHandler"]


class PageHandler(ApiHandler):
    """The page; it needs no key and tells nothing of the system."""

    route = "/"

    async def admit(self) -> None:
        """Method."""
        if self.request.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed("GET")

    async def execute(self, *path: str) -> None:  # noqa: ARG002
        """Send it."""
        page, policy = _page()
        address = html.escape(f"{self.request.protocol}://{self.request.host}")
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", policy)
        self.send(page.replace("{address}", address))


@cache
def _page() -> tuple[str, str]:
    """The page and its policy: the one style sheet inside it is allowed, by its hash, and nothing else."""
    folder = files("services.api") / "static"
    style = (folder / "page.css").read_text(encoding="utf-8")
    page = (folder / "page.html").read_text(encoding="utf-8")
    mark = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{mark}'; base-uri 'none'; frame-ancestors 'none'"
    return page.replace("/*style*/", style).replace("{version}", __version__), policy
