"""What an endpoint is: a route, the types of what it is asked and what it answers, and the function between.

Nothing here knows a web server: an endpoint can be called with a `Service` and an `Asked`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from taskq_core.access.keys import ApiKey
from taskq_core.access.scopes import Scope
from taskq_core.client import Client
from taskq_core.errors import InvalidOption
from taskq_core.read.reader import Reader
from taskq_core.read.views import OverviewView
from taskq_core.words import nearest

__all__ = [
    "JSON",
    "NDJSON",
    "Answer",
    "Asked",
    "Body",
    "NoQuery",
    "Query",
    "Route",
    "Run",
    "Service",
    "read_query",
]

JSON = "application/json"
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query parameters of a route; each may be given once."""


class NoQuery(Query, frozen=True, kw_only=True):
    """No parameter at all."""


class Service(Protocol):
    """What endpoints work with: the two ways into the system."""

    @property
    def client(self) -> Client:
        """The command side."""
        ...

    @property
    def reader(self) -> Reader:
        """The views."""
        ...

    async def health(self) -> OverviewView:
        """The overview, shared by all who ask within a second."""
        ...

    @property
    def accepting(self) -> bool:
        """False once the process drains."""
        ...


class Asked[Q: Query](msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request, as far as an endpoint may know it."""

    query: Q
    task_id: str = ""  # of the path
    body: bytes = b""
    media: str = ""  # media type of the body, without parameters
    key: ApiKey | None = None  # None: nobody asked for one
    idempotency_key: str | None = None

    @property
    def actor(self) -> str:
        """Who is to be named in the history."""
        return f"key:{self.key.id}" if self.key else "anonymous"


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An answer that is more than a body with status 200."""

    body: msgspec.Struct
    status: int = 200
    headers: Mapping[str, str] = {}


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What a route takes as its body."""

    limit: int  # bytes
    media: tuple[str, ...] = (JSON,)
    required: bool = True


type Run = Callable[[Service, Asked[Any]], Awaitable[msgspec.Struct]]
"""Answers with the body of a 200, or with an `Answer`. Raises TaskqError."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path."""

    method: str
    path: str  # `{id}` stands for a task id
    run: Run
    answer: type[msgspec.Struct]
    scope: Scope | None  # None: no key is needed, one that is given is checked all the same
    query: type[Query] = NoQuery
    body: Body | None = None
    deadline_s: float = 1.9  # then 503
    waits: bool = False  # ends early when the client goes or the process drains


def read_query[Q: Query](form: type[Q], given: Mapping[str, list[bytes]]) -> Q:
    """The typed parameters. Raises InvalidOption that names the parameter."""
    found: dict[str, str] = {}
    for name, values in given.items():
        if name not in form.__struct_fields__:
            raise InvalidOption(f"unknown parameter {name[:60]!r}: {nearest(name, form.__struct_fields__)}")
        if len(values) != 1:
            raise InvalidOption(f"the parameter {name} stands {len(values)} times; give it once")
        try:
            found[name] = values[0].decode()
        except UnicodeDecodeError:
            raise InvalidOption(f"the parameter {name} is not UTF-8") from None
    try:
        return msgspec.convert(found, form, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise InvalidOption(f"{where.rstrip('`')}: {what}" if where else what) from None
