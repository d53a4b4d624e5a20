"""Bring a database to the schema of this release.

Migrations only go forward, each in one transaction, one process at a time. What was applied is recorded
with its digest; a schema that this release does not know is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache

import msgspec
import psycopg

from taskq_core.audit.queries import migration_files, query
from taskq_core.errors import ConfigError, Unavailable

__all__ = ["MIN_SERVER", "Migration", "check", "migrate", "migrations"]

MIN_SERVER = 15
_FILE = re.compile(r"(\d{4})_\w+\.sql")

type Connection = psycopg.AsyncConnection[tuple[object, ...]]


class Migration(msgspec.Struct, frozen=True):
    """One step of the schema."""

    version: int
    name: str
    text: str

    @property
    def digest(self) -> str:
        """Tells whether a step was changed after it was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@cache
def migrations() -> tuple[Migration, ...]:
    """The steps that this release knows, oldest first."""
    steps: list[Migration] = []
    for file in migration_files():
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise ValueError(f"{file.name}: migrations are named NNNN_words.sql")
        steps.append(Migration(int(match[1]), file.name.removesuffix(".sql"), file.read_text("utf-8")))
    return tuple(steps)


async def migrate(database_url: str) -> list[str]:
    """Apply what is missing and grant the roles' rights. Answers one line per thing done or left out.

    Raises ConfigError for a server below version 15 or a schema that this release does not know,
    Unavailable when the server is away.
    """
    async with _connection(database_url) as connection:
        await connection.execute(query("lock_migrations"))
        try:
            await connection.execute(query("create_schema"))
            missing = _missing(await _applied(connection))
            for step in missing:
                await _apply(connection, step)
            return [f"applied {step.name}" for step in missing] + await _grant(connection)
        finally:
            if not connection.closed:
                await connection.execute(query("unlock_migrations"))


async def check(database_url: str) -> None:
    """Raises Unavailable while migrations are missing, ConfigError for a schema of another release."""
    async with _connection(database_url) as connection:
        has_schema = await _fetch(connection, "has_schema")
        applied = await _applied(connection) if has_schema == [(True,)] else {}
        missing = _missing(applied)
    if missing:
        raise Unavailable(f"the database lacks {missing[0].name} and what follows; run `taskq migrate`")


@asynccontextmanager
async def _connection(database_url: str) -> AsyncGenerator[Connection]:
    try:
        connection = await psycopg.AsyncConnection.connect(
            database_url, autocommit=True, connect_timeout=10, application_name="taskq migrate"
        )
    except psycopg.OperationalError as error:
        raise Unavailable(f"PostgreSQL does not answer: {str(error).splitlines()[0]}") from error
    async with connection:
        major = connection.info.server_version // 10_000
        if major < MIN_SERVER:
            raise ConfigError(f"PostgreSQL {MIN_SERVER} or newer is needed; this server is version {major}")
        yield connection


async def _fetch(connection: Connection, name: str) -> list[tuple[object, ...]]:
    return await (await connection.execute(query(name))).fetchall()


async def _applied(connection: Connection) -> dict[int, tuple[str, str]]:
    rows = await _fetch(connection, "applied_migrations")
    return {int(str(version)): (str(name), str(digest)) for version, name, digest in rows}


def _missing(applied: dict[int, tuple[str, str]]) -> list[Migration]:
    known = {step.version: step for step in migrations()}
    newest = max(known)
    for version, (name, digest) in applied.items():
        if version > newest:
            raise ConfigError(f"the database is newer than this release: it has {name}")
        if version not in known or known[version].digest != digest:
            raise ConfigError(f"{name} differs from what was applied; use the release that applied it")
    return [step for step in migrations() if step.version not in applied]


async def _apply(connection: Connection, step: Migration) -> None:
    async with connection.transaction():
        # The text is one of our own files.
        await connection.execute(step.text.encode())
        values = {"version": step.version, "name": step.name, "digest": step.digest}
        await connection.execute(query("record_migration"), values)


async def _grant(connection: Connection) -> list[str]:
    """Roles belong to the whole server, so they stand outside the numbered steps. Repeatable."""
    said: list[str] = []
    for name, may_create in await _fetch(connection, "missing_roles"):
        if not may_create:
            said.append(f"left out role {name}: this user may not create roles")
            continue
        await connection.execute(query(f"create_role_{name}"))
        said.append(f"created role {name}")
    gone = {str(name) for name, _ in await _fetch(connection, "missing_roles")}
    for role in ("relay", "reader"):
        if f"taskq_{role}" not in gone:
            await _grant_role(connection, role, said)
    return said


async def _grant_role(connection: Connection, role: str, said: list[str]) -> None:
    await connection.execute(query(f"grant_{role}"))
    steps = [f"join_taskq_{role}"] + (["limit_reader"] if role == "reader" else [])
    for step in steps:
        try:
            await connection.execute(query(step))
        except psycopg.errors.InsufficientPrivilege:
            said.append(f"left out {step}: role taskq_{role} belongs to another user")
