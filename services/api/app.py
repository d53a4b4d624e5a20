"""The application: every path, and the handler that serves it."""

from __future__ import annotations

import tornado.web
from tornado.routing import Rule

from services.api.core import Core
from services.api.endpoints.route import Route
from services.api.endpoints.table import ROUTES
from services.api.files import FileHandler, UploadHandler
from services.api.handlers import EndpointHandler, NotFoundHandler, log_request
from services.api.page import PageHandler
from services.api.scrape import MetricsHandler
from services.api.ws import MAX_MESSAGE, SocketHandler

__all__ = ["make_app"]

PING_S = 20.0

type Path = Rule | tuple[str, type[tornado.web.RequestHandler], dict[str, object]]


def make_app(core: Core) -> tornado.web.Application:
    """The Tornado application over what a process shares."""
    shared: dict[str, object] = {"core": core}
    paths: list[Path] = [
        (_pattern(path), EndpointHandler, {"core": core, "routes": routes})
        for path, routes in _by_path().items()
    ]
    paths += [
        (r"/api/uploads", UploadHandler, shared),
        (r"/api/files/([^/]+)", FileHandler, shared),
        (r"/metrics", MetricsHandler, shared),
        (r"/ws", SocketHandler, shared),
        (r"/", PageHandler, shared),
    ]
    return tornado.web.Application(
        paths,
        default_handler_class=NotFoundHandler,
        default_handler_args=shared,
        log_function=log_request,
        compress_response=False,
        websocket_max_message_size=MAX_MESSAGE,
        websocket_ping_interval=PING_S,
    )


def _by_path() -> dict[str, dict[str, Route]]:
    paths: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = route
    return paths


def _pattern(path: str) -> str:
    return path.replace("{id}", "([^/]+)")
