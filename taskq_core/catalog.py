"""The tasks that workers have registered, so that others can submit them by name.

One hash, a field per name: the newest declaration, and the schema of every code version that was seen in
the last seven days. A payload is good when any of those versions accepts it: during a rolling deploy the
old and the new one both run.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, cast

import jsonschema_rs
import msgspec
from redis.exceptions import WatchError

from taskq_core.broker.keys import CATALOG
from taskq_core.errors import InvalidPayload, Unavailable, UnknownTask
from taskq_core.model.codec import digest
from taskq_core.model.order import Defaults, make_defaults
from taskq_core.model.retry import Retry
from taskq_core.model.task import Priority
from taskq_core.tasks import Task
from taskq_core.words import nearest

__all__ = [
    "Catalog",
    "CatalogCache",
    "CatalogEntry",
    "Declaration",
    "Version",
    "declaration",
    "load",
    "register",
]

KEPT_MS = 7 * 86_400_000
UNKNOWN_REFRESH_S = 1.0
MAX_AGE_S = 30.0
_WRITE_ROUNDS = 50
_MOST_VALIDATORS = 4096
_MOST_CHARACTERS = 300


class Version(msgspec.Struct, frozen=True):
    """What one code version accepts."""

    schema: dict[str, Any]
    seen_at: int  # server ms of the last registration


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """What a task says of itself, as it travels from the process that imported it."""

    name: str
    queue: str
    kind: str
    schema: dict[str, Any]
    retry: Retry = Retry()
    timeout: float | None = None  # seconds
    doc: str = ""
    priority: Priority = Priority.NORMAL
    result_ttl: float = 300.0  # seconds


class CatalogEntry(Declaration, frozen=True, kw_only=True):
    """A registered task: its newest declaration, and what each code version accepts."""

    versions: dict[str, Version] = {}

    @property
    def defaults(self) -> Defaults:
        """What holds for a submission that says nothing else."""
        return make_defaults(self.queue, self.priority, self.retry, self.timeout, self.result_ttl)


_entries = msgspec.json.Decoder(CatalogEntry)


class _Known:
    """An entry with what is computed from it once."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.entry = _entries.decode(raw)
        self.defaults = self.entry.defaults
        newest = sorted(self.entry.versions.values(), key=lambda v: v.seen_at, reverse=True)
        schemas = [version.schema for version in newest] or [self.entry.schema]
        self.schemas = [(digest(msgspec.json.encode(schema)), schema) for schema in schemas]


class Catalog:
    """One reading of the hash."""

    def __init__(self, raw: Mapping[bytes, bytes] | None = None, before: Catalog | None = None) -> None:
        """`before` hands over what has not changed since. An entry nobody can read is left out."""
        self._known: dict[str, _Known] = {}
        old = {} if before is None else before._known  # noqa: SLF001  # of the same class
        for field, text in (raw or {}).items():
            name = field.decode(errors="replace")
            kept = old.get(name)
            try:
                self._known[name] = kept if kept is not None and kept.raw == text else _Known(text)
            except msgspec.MsgspecError:
                continue

    @property
    def entries(self) -> list[CatalogEntry]:
        """Every registered task, by name."""
        return [self._known[name].entry for name in sorted(self._known)]

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def entry(self, name: str) -> CatalogEntry:
        """Raises UnknownTask with the nearest name."""
        return self._find(name).entry

    def check(self, name: str, payload: bytes) -> CatalogEntry:
        """The entry that accepts this payload, which is JSON. Raises UnknownTask, InvalidPayload."""
        self.defaults_for(name, msgspec.json.decode(payload))
        return self._known[name].entry

    def defaults_for(self, name: str, value: Any) -> Defaults:
        """As `check`, for a decoded payload; answers what the declaration says about a submission."""
        known = self._find(name)
        errors = [_refusal(mark, schema, value) for mark, schema in known.schemas]
        if all(errors):
            raise InvalidPayload(f"{name}: {errors[0]}")
        return known.defaults

    def _find(self, name: str) -> _Known:
        known = self._known.get(name)
        if known is None:
            raise UnknownTask(f"no worker has registered {name[:130]!r}: {nearest(name, self._known)}")
        return known


class CatalogCache:
    """A catalog that reads again when it is old, and at most once a second when a name is missing."""

    def __init__(self) -> None:
        self._catalog = Catalog()
        self._read_at = float("-inf")

    async def defaults_for(self, redis: Any, name: str, value: Any) -> Defaults:
        """As `Catalog.defaults_for`. What is refused is asked again of a fresh reading."""
        await self._refresh(redis, MAX_AGE_S)
        try:
            return self._catalog.defaults_for(name, value)
        except (UnknownTask, InvalidPayload):
            if not await self._refresh(redis, UNKNOWN_REFRESH_S):
                raise
        return self._catalog.defaults_for(name, value)

    async def _refresh(self, redis: Any, older_than: float) -> bool:
        if time.monotonic() - self._read_at < older_than:
            return False
        self._read_at = time.monotonic()
        self._catalog = await load(redis, self._catalog)
        return True


async def load(redis: Any, before: Catalog | None = None) -> Catalog:
    """Read the catalog from a `redis.asyncio` client."""
    return Catalog(cast(dict[bytes, bytes], await redis.hgetall(CATALOG)), before)


def declaration(task: Task[..., Any]) -> Declaration:
    """What a declared task says of itself."""
    return Declaration(
        name=task.name,
        queue=task.queue,
        kind=task.kind,
        schema=task.schema,
        retry=task.retry,
        timeout=task.timeout,
        doc=task.doc,
        priority=task.priority,
        result_ttl=task.result_ttl,
    )


async def register(redis: Any, tasks: Iterable[Task[..., Any]], code_version: str, now_ms: int) -> None:
    """Write the declarations of a worker; repeat it hourly, entries are forgotten after seven days.

    Raises Unavailable when other workers keep writing at the same time.
    """
    declared = {task.name: task if isinstance(task, Declaration) else declaration(task) for task in tasks}
    for _ in range(_WRITE_ROUNDS):
        async with redis.pipeline(transaction=True) as pipe:
            await pipe.watch(CATALOG)
            stored = cast(dict[bytes, bytes], await pipe.hgetall(CATALOG))
            fresh, gone = _changes(stored, declared, code_version, now_ms)
            pipe.multi()
            if fresh:
                pipe.hset(CATALOG, mapping=fresh)
            if gone:
                pipe.hdel(CATALOG, *gone)
            try:
                await pipe.execute()
            except WatchError:
                continue
            return
    raise Unavailable("the catalog is being written by too many workers; try again")


def _changes(
    stored: Mapping[bytes, bytes], declared: Mapping[str, Declaration], code_version: str, now_ms: int
) -> tuple[dict[str, bytes], list[bytes]]:
    """Fields to write, and fields that no version has used for seven days."""
    old = {entry.name: entry for entry in Catalog(stored).entries}
    fresh = {
        name: msgspec.json.encode(_entry(task, old.get(name), code_version, now_ms))
        for name, task in declared.items()
    }
    gone = [
        name.encode()
        for name, entry in old.items()
        if name not in declared and not _recent(entry.versions, now_ms)
    ]
    return fresh, gone


def _entry(one: Declaration, old: CatalogEntry | None, code_version: str, now_ms: int) -> CatalogEntry:
    versions = _recent(old.versions, now_ms) if old else {}
    versions[code_version] = Version(one.schema, now_ms)
    return CatalogEntry(
        **{name: getattr(one, name) for name in Declaration.__struct_fields__}, versions=versions
    )


def _recent(versions: Mapping[str, Version], now_ms: int) -> dict[str, Version]:
    return {name: one for name, one in versions.items() if now_ms - one.seen_at < KEPT_MS}


# --- compiled schemas, shared by all catalogs of the process

_validators: OrderedDict[str, jsonschema_rs.Draft202012Validator] = OrderedDict()


def _refusal(mark: str, schema: dict[str, Any], value: Any) -> str:
    """Why a schema does not accept a value; empty when it does."""
    try:
        validator = _compiled(mark, schema)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        return f"its registered schema is broken: {error}"[:_MOST_CHARACTERS]
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        path = ".".join(str(step) for step in error.instance_path)
        return f"{path}: {error.message}"[:_MOST_CHARACTERS] if path else error.message[:_MOST_CHARACTERS]
    return ""


def _compiled(mark: str, schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    found = _validators.get(mark)
    if found is None:
        # offline: a schema must not make this process fetch anything
        found = jsonschema_rs.Draft202012Validator(schema, validate_formats=True, offline=True)
        _validators[mark] = found
        if len(_validators) > _MOST_VALIDATORS:
            _validators.popitem(last=False)
    return found
