"""What /metrics tells: the whole system as the Reader sees it, and what this process knows of itself."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from taskq_core.read.metrics import MetricFamily, MetricsSnapshot, Sample, render

__all__ = ["CONTENT_TYPE", "ApiMetrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
MOST_SERIES = 500  # of requests; beyond them everything is `other`
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_METHODS = frozenset({"GET", "HEAD", "POST"})

type _Labels = tuple[str, str, str]


class ApiMetrics:
    """Requests and sockets of this process. Routes come from the route table, never from an address."""

    def __init__(self) -> None:
        self.ws_clients = 0
        self._counts: dict[_Labels, list[int]] = {}
        self._sums: dict[_Labels, float] = {}

    def note(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answered request."""
        labels = (route, method if method in _METHODS else OTHER, str(status))
        counts = self._counts.get(labels)
        if counts is None:
            if len(self._counts) >= MOST_SERIES:
                labels = (OTHER, OTHER, OTHER)
            counts = self._counts.setdefault(labels, [0] * (len(BOUNDS_S) + 1))
            _ = self._sums.setdefault(labels, 0.0)
        counts[bisect_left(BOUNDS_S, seconds)] += 1
        self._sums[labels] += seconds

    def text(self, snapshot: MetricsSnapshot) -> str:
        """Everything as Prometheus text."""
        return render([*snapshot.families, *self._own()])

    def _own(self) -> Iterable[MetricFamily]:
        samples = [sample for labels in sorted(self._counts) for sample in self._histogram(labels)]
        yield MetricFamily("taskq_http_request_seconds", "histogram", "Requests by route.", samples)
        yield MetricFamily(
            "taskq_ws_clients", "gauge", "Open WebSockets of this process.", [Sample({}, self.ws_clients)]
        )

    def _histogram(self, labels: _Labels) -> Iterable[Sample]:
        route, method, status = labels
        names = {"route": route, "method": method, "status": status}
        seen = 0
        for bound, n in zip(BOUNDS_S, self._counts[labels], strict=False):
            seen += n
            yield Sample({**names, "le": f"{bound:g}"}, seen, "_bucket")
        count = sum(self._counts[labels])
        yield Sample({**names, "le": "+Inf"}, count, "_bucket")
        yield Sample(names, self._sums[labels], "_sum")
        yield Sample(names, count, "_count")
