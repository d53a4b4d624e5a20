"""GET /metrics."""

from __future__ import annotations

from services.api.endpoints.route import NoQuery, read_query
from services.api.handlers import ApiHandler
from services.api.metrics import CONTENT_TYPE
from services.api.problems import MethodNotAllowed
from taskq_core.access.scopes import Scope

__all__ = ["MetricsHandler"]


class MetricsHandler(ApiHandler):
    """For Prometheus, which brings a key of its own."""

    route = "/metrics"

    async def admit(self) -> None:
        """Method, key."""
        if self.request.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed("GET")
        await self.authenticate(Scope.READ)
        _ = read_query(NoQuery, self.request.query_arguments)

    async def execute(self, *path: str) -> None:  # noqa: ARG002
        """The whole system and this process."""
        text = self.core.metrics.text(await self.core.reader.metrics())
        self.set_header("Content-Type", CONTENT_TYPE)
        self.send(text)
