"""From HTTP to endpoints and back: checks in their order, bounded bodies, typed answers, problems.

Every request passes: host name, site, keys in addresses, method, key, scope, parameters, type and size of
the body. Only then is the body read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, cast

import msgspec
import tornado.web
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders

from services.api.auth import bearer_token
from services.api.core import Core
from services.api.endpoints.route import Answer, Asked, Body, NoQuery, Query, Route, read_query
from services.api.guard import refuse_keys_in_query
from services.api.problems import MEDIA_TYPE, MethodNotAllowed, UnsupportedMediaType, problem_of
from taskq_core.access.keys import ApiKey
from taskq_core.access.scopes import Scope, require
from taskq_core.clock import monotonic_ns
from taskq_core.errors import (
    InvalidOption,
    NotFound,
    TaskqError,
    TooLarge,
    Unavailable,
)

__all__ = ["ApiHandler", "EndpointHandler", "NotFoundHandler", "log_request"]

JSON_TYPE = "application/json; charset=utf-8"
SLACK = 1 << 20  # bytes over a limit that are still read, so that the client hears why it was refused
_SHOWN_PATH = 200
_MOST_DIGITS = 19
_log = logging.getLogger("taskq.api")
_encode = msgspec.json.Encoder().encode
_SERVERS = 500
_NO_QUERY = NoQuery()
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Content-Type": JSON_TYPE,
}


@tornado.web.stream_request_body
class ApiHandler(tornado.web.RequestHandler):
    """What all have in common. Bodies come in pieces, so that too much of one is refused early."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")
    route = "other"  # for metrics: from the route table

    def initialize(self, core: Core) -> None:  # noqa: D102
        self.core = core
        self.key: ApiKey | None = None
        self.body = bytearray()
        self.spent_s = 0.0  # on the key: part of what the client is made to wait
        self._limit = 0
        self._size = 0
        self._refusal: TaskqError | None = None
        self._body_read = False

    def set_default_headers(self) -> None:
        """On every answer."""
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """Answers are not to be kept."""

    async def prepare(self) -> None:
        """Everything that is checked before the body comes.

        A refusal is told when the body has been read and dropped, so that the connection can be kept; at
        once, and the connection closed, when there is much to read or the client waits to be asked for it.
        """
        self.core.active.add(self)
        self.connection.set_max_body_size(SLACK)
        try:
            await self._check()
        except TaskqError as error:
            self._refusal = error
            headers = self.request.headers
            if "Expect" in headers or _length(headers) > self._limit + SLACK:
                raise

    async def _check(self) -> None:
        request = self.request
        self.core.guard.check_host(request.host)
        headers = request.headers
        self.core.guard.check_site(
            request.method or "",
            request.protocol,
            request.host,
            headers.get("Origin"),
            headers.get("Sec-Fetch-Site"),
        )
        if request.query:
            refuse_keys_in_query(request.query_arguments)
        await self.admit()

    async def admit(self) -> None:
        """The checks of one route."""
        raise NotImplementedError

    async def authenticate(self, scope: Scope | None) -> None:
        """The key of the request, which must have the scope; without a scope, a key is optional."""
        header = self.request.headers.get("Authorization")
        started = monotonic_ns()
        if scope is not None:
            self.key = await self.core.auth.check(bearer_token(header))
            require(self.key.scopes, scope)
        elif header is not None or not self.core.auth.required:
            try:
                self.key = await self.core.auth.check(bearer_token(header))
            except Unavailable:
                self.key = None
        self.spent_s = (monotonic_ns() - started) / 1e9

    # --- the body

    def expect_body(self, body: Body | None) -> str:
        """Allow a body; answers its media type. Raises UnsupportedMediaType, TooLarge, InvalidOption."""
        headers = self.request.headers
        length = headers.get("Content-Length")
        has_body = "Transfer-Encoding" in headers or (length is not None and length != "0")
        if body is None:
            return ""
        media = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if (has_body or body.required) and body.media and media not in body.media:
            raise UnsupportedMediaType(f"send Content-Type: {' or '.join(body.media)}")
        if not has_body and body.required:
            raise InvalidOption("the request has no body")
        self._limit = body.limit
        self.connection.set_max_body_size(body.limit + SLACK)
        if _length(headers) > body.limit:
            raise self._too_large()
        return media

    def data_received(self, chunk: bytes) -> None:
        """A piece of the body."""
        self._size += len(chunk)
        if self._finished or (self._refusal is None and self._limit == 0):
            return
        if self._refusal is not None:
            if self._size > self._limit + SLACK // 2:
                self.refuse(self._refusal)  # the body may be endless
        elif self._size > self._limit:
            self._refusal = self._too_large()
            self.body.clear()
        else:
            self.take(chunk)

    def take(self, chunk: bytes) -> None:
        """Keep a piece of a body that is within its limit."""
        self.body += chunk

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is over the limit of {self._limit} bytes")

    @property
    def connection(self) -> HTTP1Connection:
        """What carries this request."""
        return cast(HTTP1Connection, self.request.connection)

    # --- answers

    async def execute(self, *path: str) -> None:
        """Answer; `path` holds the variable parts of the path. The body is there."""
        raise NotImplementedError

    async def _dispatch(self, *path: str) -> None:
        """Raises what was found out before the body came, or while it did."""
        self._body_read = True
        if self._refusal is not None:
            raise self._refusal
        await self.execute(*path)

    get = head = post = put = patch = delete = options = _dispatch

    def reply(
        self, body: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer in JSON."""
        self.set_status(status)
        for name, value in (headers or {}).items():
            self.set_header(name, value)
        self.send(_encode(body))

    def send(self, content: bytes | str) -> None:
        """Answer with this content, whole."""
        _ = self.finish(content)  # pyright: ignore[reportUnknownMemberType]  # Tornado's `dict`

    def refuse(self, error: BaseException) -> None:
        """Answer with a problem. What comes of the body after it is not read: the connection closes."""
        self.clear()
        if not self._body_read:
            self.set_header("Connection", "close")
        problem, headers = problem_of(error)
        self.reply(problem, problem.status, {**headers, "Content-Type": MEDIA_TYPE})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Whatever was raised, as a problem."""
        error = cast(tuple[Any, BaseException | None, Any], kwargs.get("exc_info") or (None, None, None))[1]
        if isinstance(error, tornado.web.HTTPError) or error is None:
            error = _of_http(status_code)
        self.refuse(error)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Refusals are the client's business; what we have no word for is ours."""
        if isinstance(value, tornado.web.HTTPError) or value is None or typ is None:
            return
        if problem_of(value)[0].status == HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("a request failed", exc_info=(typ, value, tb), extra=_about(self))

    def on_finish(self) -> None:
        """It is answered."""
        self.core.active.discard(self)

    def on_connection_close(self) -> None:
        """The client went away."""
        super().on_connection_close()
        self.core.active.discard(self)


class NotFoundHandler(ApiHandler):
    """Every path that is not in the route table."""

    async def admit(self) -> None:
        """Raises NotFound."""
        raise NotFound("there is nothing at this path; GET / lists what there is")


class EndpointHandler(ApiHandler):
    """One path of the route table."""

    def initialize(self, core: Core, routes: Mapping[str, Route] | None = None) -> None:  # noqa: D102
        super().initialize(core)
        self._routes = routes or {}
        self._route: Route | None = None
        self._query: Query = _NO_QUERY
        self._media = ""
        self._work: asyncio.Future[msgspec.Struct] | None = None

    async def admit(self) -> None:
        """Method, key, scope, parameters, body."""
        method = self.request.method or ""
        route = self._route = self._routes.get("GET" if method == "HEAD" else method)
        self.route = next(iter(self._routes.values())).path
        if route is None:
            raise MethodNotAllowed(", ".join(sorted(self._routes)))
        await self.authenticate(route.scope)
        if route.query is not NoQuery or self.request.query:
            self._query = read_query(route.query, self.request.query_arguments)
        self._media = self.expect_body(route.body)

    async def execute(self, *path: str) -> None:
        """Ask the endpoint."""
        route = cast(Route, self._route)
        answer = await self._run(route, self._asked(*path))
        if isinstance(answer, Answer):
            self.reply(answer.body, answer.status, answer.headers)
        elif answer is not None:
            self.reply(answer)

    def _asked(self, task_id: str = "") -> Asked[Query]:
        return Asked(
            query=self._query,
            task_id=task_id,
            body=bytes(self.body),
            media=self._media,
            key=self.key,
            idempotency_key=self.request.headers.get("Idempotency-Key"),
        )

    async def _run(self, route: Route, asked: Asked[Query]) -> msgspec.Struct | None:
        """The answer; None when nobody waits for it any more."""
        if route.waits:
            return await self._wait(route, asked)
        try:
            async with asyncio.timeout(route.deadline_s - self.spent_s):
                return await route.run(self.core, asked)
        except TimeoutError:
            raise Unavailable(f"no answer within {route.deadline_s:g} s; try again") from None

    async def _wait(self, route: Route, asked: Asked[Query]) -> msgspec.Struct | None:
        """As `_run`, for as long as the client is there and the process does not drain."""
        work = self._work = asyncio.ensure_future(route.run(self.core, asked))
        self.core.waits.add(work)
        try:
            done, _ = await asyncio.wait([work], timeout=route.deadline_s)
            if not done or work.cancelled():
                raise Unavailable("the wait was ended early; ask again")
            return work.result()
        finally:
            _ = work.cancel()
            self.core.waits.discard(work)

    def on_connection_close(self) -> None:
        """Nobody waits for the answer."""
        super().on_connection_close()
        if self._work is not None:
            _ = self._work.cancel()


def _of_http(status: int) -> BaseException:
    """Tornado's own refusals, of what comes before our checks."""
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowed("GET, POST")
    return InvalidOption("the request cannot be read") if status < _SERVERS else RuntimeError(status)


def _length(headers: HTTPHeaders) -> int:
    """The announced length of the body; 0 when there is none, or none that can be read."""
    length = headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and len(length) < _MOST_DIGITS else 0


def log_request(handler: tornado.web.RequestHandler) -> None:
    """Count a request; log it when the fault is ours. Queries are not logged: they may hold anything."""
    if not isinstance(handler, ApiHandler):
        return
    request, status = handler.request, handler.get_status()
    handler.core.metrics.note(handler.route, request.method or "", status, request.request_time())
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.warning("answered %d", status, extra=_about(handler))


def _about(handler: ApiHandler) -> dict[str, Any]:
    request = handler.request
    return {
        "method": request.method,
        "path": request.path[:_SHOWN_PATH],
        "key": handler.key.id if handler.key else None,
        "ms": round(request.request_time() * 1000, 1),
    }
