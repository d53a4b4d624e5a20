"""The history as text files, one per table: read in one snapshot, written back in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg import sql

from services.backup.archive import Table
from taskq_core.audit.migrate import MIN_SERVER
from taskq_core.errors import ConfigError, Unavailable

__all__ = ["Copied", "copy_in", "copy_out", "is_empty"]

_SCHEMA = "taskq"
_PIECE = 1 << 20
_OWN = frozenset({"schema_version"})  # written by the migrations, not by a restore

# Tables whose parent is no table of ours: rows of partitions are read through their parent.
_TABLES = """
SELECT c.relname, array_agg(a.attname ORDER BY a.attnum)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'taskq'
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
GROUP BY c.relname ORDER BY c.relname
"""
_POSITION = "SELECT incarnation, ms, seq, n FROM taskq.relay_position WHERE shard = 0"
_APPLIED = "SELECT name FROM taskq.schema_version ORDER BY version"


class Copied(msgspec.Struct, frozen=True):
    """What was read."""

    tables: dict[str, Table]
    position: list[int] | None  # incarnation, ms, seq, n of the newest committed event
    schema: list[str]
    server: str


async def copy_out(database_url: str, folder: Path) -> Copied:
    """Read every table as of one moment. Raises ConfigError when there is no history, Unavailable."""
    async with await _connect(database_url) as connection:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            found = await (await connection.execute(_TABLES)).fetchall()
            position = await (await connection.execute(_POSITION)).fetchone()
            applied = await (await connection.execute(_APPLIED)).fetchall()
        except psycopg.errors.UndefinedTable as error:
            raise ConfigError("the database is not set up; run `taskq migrate`") from error
        tables = {
            str(name): Table(
                [str(column) for column in columns], await _read(connection, name, columns, folder)
            )
            for name, columns in found
            if name not in _OWN
        }
        version = connection.info.server_version
    return Copied(
        tables,
        [int(number) for number in position] if position else None,
        [str(name) for (name,) in applied],
        f"postgres {version // 10_000}.{version % 10_000}",
    )


async def _read(connection: psycopg.AsyncConnection[Any], name: str, columns: list[str], folder: Path) -> int:
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(_names(columns), _table(name))
    async with connection.cursor() as cursor:
        with (folder / name).open("wb") as out:
            async with cursor.copy(query) as copy:
                async for piece in copy:
                    out.write(piece)
        return max(cursor.rowcount, 0)


async def is_empty(database_url: str) -> bool:
    """Whether a database holds no history of ours."""
    async with await _connect(database_url) as connection:
        try:
            row = await (await connection.execute("SELECT EXISTS (SELECT FROM taskq.events)")).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return True
    return row == (False,)


async def copy_in(database_url: str, folder: Path, tables: Mapping[str, Table], *, replace: bool) -> None:
    """Write the tables into a migrated database, all or nothing."""
    async with await _connect(database_url) as connection, connection.transaction():
        found = await (await connection.execute(_TABLES)).fetchall()
        known = {str(name): {str(column) for column in columns} for name, columns in found}
        for name, table in tables.items():
            if not set(table.columns) <= known.get(name, set()):
                raise ConfigError(
                    f"this release does not know all of the backup's table {name}; update taskq"
                )
            if replace:
                await connection.execute(sql.SQL("TRUNCATE {}").format(_table(name)))
            await _write(connection, name, table.columns, folder / name)


async def _write(connection: psycopg.AsyncConnection[Any], name: str, columns: list[str], file: Path) -> None:
    query = sql.SQL("COPY {} ({}) FROM STDIN").format(_table(name), _names(columns))
    async with connection.cursor() as cursor, cursor.copy(query) as copy:
        with file.open("rb") as source:
            while piece := source.read(_PIECE):
                await copy.write(piece)


def _table(name: str) -> sql.Identifier:
    return sql.Identifier(_SCHEMA, name)


def _names(columns: list[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


async def _connect(database_url: str) -> psycopg.AsyncConnection[Any]:
    try:
        connection = await psycopg.AsyncConnection.connect(
            database_url, autocommit=True, connect_timeout=10, application_name="taskq backup"
        )
    except psycopg.OperationalError as error:
        raise Unavailable(f"PostgreSQL does not answer: {str(error).splitlines()[0]}") from error
    if connection.info.server_version // 10_000 < MIN_SERVER:
        await connection.close()
        raise ConfigError(f"PostgreSQL {MIN_SERVER} or newer is needed")
    return connection
