"""Errors as the outside sees them: RFC 9457 problems with a stable `code`."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from taskq_core.errors import Full, Refused, TaskqError, Unavailable

__all__ = ["MEDIA_TYPE", "MethodNotAllowed", "Problem", "RateLimited", "UnsupportedMediaType", "problem_of"]

MEDIA_TYPE = "application/problem+json; charset=utf-8"

_STATUS = {
    "invalid_json": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "unique_taken": 409,
    "too_late": 409,
    "id_clock": 409,
    "payload_not_kept": 409,
    "too_large": 413,
    "unsupported_media_type": 415,
    "unknown_task": 422,
    "invalid_payload": 422,
    "invalid_option": 422,
    "rate_limited": 429,
    "full": 503,
    "unavailable": 503,
    "history_behind": 503,
}
_FULL_RETRY_S, _RETRY_S = 5, 1


class MethodNotAllowed(Refused):
    """This path does not take this method."""

    code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"this path takes {allowed}")
        self.allowed = allowed


class UnsupportedMediaType(Refused):
    """The body has a type that this path does not take."""

    code = "unsupported_media_type"


class RateLimited(Refused):
    """Too many requests; wait a little."""

    code = "rate_limited"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error. Programs read `code`, people `detail`."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str


def problem_of(error: BaseException) -> tuple[Problem, dict[str, str]]:
    """The problem and the headers that go with it. What is not ours to tell is told as `internal`."""
    if isinstance(error, TaskqError):
        for kind in type(error).__mro__:
            code = getattr(kind, "code", "")
            if code in _STATUS:
                return _problem(_STATUS[code], code, str(error)), _headers(error)
    return _problem(500, "internal", "something went wrong here; the log of the API has the reason"), {}


def _problem(status: int, code: str, detail: str) -> Problem:
    return Problem(title=HTTPStatus(status).phrase, status=status, code=code, detail=detail)


def _headers(error: TaskqError) -> dict[str, str]:
    if isinstance(error, Unavailable):
        return {"Retry-After": str(_FULL_RETRY_S if isinstance(error, Full) else _RETRY_S)}
    if isinstance(error, MethodNotAllowed):
        return {"Allow": error.allowed}
    if isinstance(error, RateLimited):
        return {"Retry-After": str(_RETRY_S)}
    if error.code == "unauthenticated":
        return {"WWW-Authenticate": 'Bearer realm="taskq"'}
    return {}
