"""What the relay tells of itself over HTTP: metrics for Prometheus, health for whoever runs it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from taskq_core.audit.relay import RelayStats
from taskq_core.errors import ConfigError

__all__ = ["serve_metrics"]

_STATES = ("starting", "standby", "running", "waiting", "stopped")


class _RelayCollector(Collector):
    """The relay's figures, read when asked."""

    def __init__(self, stats: Callable[[], RelayStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        """All metrics of this process, also at zero."""
        stats = self._stats()
        yield GaugeMetricFamily("taskq_relay_backlog_events", "Events not committed yet.", stats.backlog)
        yield GaugeMetricFamily("taskq_relay_lag_seconds", "Age of what is not committed yet.", stats.lag_s)
        state = GaugeMetricFamily("taskq_relay_state", "1 for the state that holds.", labels=["state"])
        for name in _STATES:
            state.add_metric([name], float(stats.state == name))
        yield state
        for name, text, value in (
            ("committed_events", "Events committed since the start.", stats.committed),
            ("replayed_events", "Events that came again.", stats.replayed),
            ("quarantined_events", "Events that could not be kept.", stats.quarantined),
            ("differing_events", "Events that came again with another content.", stats.differing),
            ("batches", "Reads carried to the end.", stats.batches),
            ("moved_rows", "Rows that had no partition at first.", stats.moved),
        ):
            yield CounterMetricFamily(f"taskq_relay_{name}", text, value)


class _Quiet(WSGIRequestHandler):
    """Requests are not logged, and a client that says nothing is not waited for."""

    timeout = 5.0

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serve_metrics(stats: Callable[[], RelayStats], host: str, port: int | None) -> Generator[None]:
    """Serve /health/live, /health/ready and /metrics from a thread, when a port is given."""
    if port is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(_RelayCollector(stats))

    def answer(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        path = environ.get("PATH_INFO", "")
        if path in {"/", "/metrics"}:
            start_response("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
            return [generate_latest(registry)]
        if path not in {"/health", "/health/live", "/health/ready"}:
            start_response("404 Not Found", [])
            return []
        ready = path == "/health/live" or stats().state in {"running", "standby"}
        start_response("200 OK" if ready else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"ok\n" if ready else b"waiting\n"]

    try:
        server = make_server(host, port, answer, WSGIServer, _Quiet)
    except OSError as error:
        raise ConfigError(f"the metrics port {host}:{port} cannot be used: {error.strerror}") from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
