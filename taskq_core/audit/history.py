"""The read side of the history: typed rows out of Postgres, with bound parameters only.

Every call answers within two seconds or raises Unavailable; it never waits for a server that is away, or that
accepts a query and then says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from taskq_core.audit.queries import query
from taskq_core.audit.rows import ActionRow, AttemptRow, EventRow, PayloadRow, Position, TaskRow
from taskq_core.errors import Unavailable

__all__ = ["History", "open_pool"]

STATEMENT_MS = 1_700
DEADLINE_S = 1.9  # of a whole call, as the server's own limit does not hold while it is frozen
POOL_WAIT_S = 1.0
MAX_ROWS = 10_000

type Pool = AsyncConnectionPool[psycopg.AsyncConnection[dict[str, Any]]]


async def _configure(connection: psycopg.AsyncConnection[dict[str, Any]]) -> None:
    set_json_loads(msgspec.json.decode, connection)
    await connection.set_autocommit(True)
    cursor = await connection.execute(query("become_reader"))
    row = await cursor.fetchone()
    if row is not None and True in row.values():
        await connection.execute(query("set_reader"))


async def _check(connection: psycopg.AsyncConnection[dict[str, Any]]) -> None:
    """Raises when the connection broke while it lay in the pool."""
    await connection.execute("")


async def open_pool(database_url: str, *, max_size: int = 4) -> Pool:
    """A pool for `History`. Opening never waits for the server; it needs none to be there yet."""
    pool: Pool = AsyncConnectionPool(
        database_url,
        connection_class=psycopg.AsyncConnection[dict[str, Any]],
        kwargs={
            "row_factory": dict_row,
            "prepare_threshold": None,  # plans must know the values: empty filters fold away
            "connect_timeout": 5,
            "application_name": "taskq reader",
            "options": f"-c statement_timeout={STATEMENT_MS} -c lock_timeout={STATEMENT_MS} -c timezone=UTC",
        },
        min_size=0,
        max_size=max_size,
        timeout=POOL_WAIT_S,
        reconnect_timeout=5.0,
        configure=_configure,
        check=_check,
        open=False,
    )
    await pool.open()
    return pool


class History:
    """What Postgres knows. Raises Unavailable when it is away, slow or not migrated yet."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._strays: set[asyncio.Task[Any]] = set()  # given up, still cleaning up

    async def tasks(
        self,
        *,
        states: Sequence[str] = (),
        queues: Sequence[str] = (),
        names: Sequence[str] = (),
        before: str | None = None,
        since: str | None = None,
        limit: int = 50,
    ) -> list[TaskRow]:
        """Tasks, newest id first. `before` is the cursor: the last id of the page before this one.

        `since` is the smallest id wanted (`model.ids.first_id_at`). An empty filter matches everything.
        """
        page = {"before": before, "since": since, "limit": min(limit, MAX_ROWS)}
        if max(len(states), len(queues), len(names)) <= 1:
            one = {"state": _only(states), "queue": _only(queues), "name": _only(names)}
            return await self._rows(TaskRow, "list_tasks", one | page)
        many = {
            "states": list(states) or None,
            "queues": list(queues) or None,
            "names": list(names) or None,
        }
        return await self._rows(TaskRow, "list_tasks_of_many", many | page)

    async def task(self, id: str) -> TaskRow | None:
        """One task, or None when the history does not know it (yet: see `position`)."""
        found = await self.tasks_by_id([id])
        return found[0] if found else None

    async def tasks_by_id(self, ids: Sequence[str]) -> list[TaskRow]:
        """Those of these tasks that are known, in no order."""
        return await self._rows(TaskRow, "tasks_by_id", {"ids": list(ids)})

    async def events(self, id: str, *, limit: int = 1_000, offset: int = 0) -> list[EventRow]:
        """The events of one task, oldest first."""
        values = {"id": id, "limit": min(limit, MAX_ROWS), "offset": offset}
        return await self._rows(EventRow, "events_of_task", values)

    async def events_after(self, n: int, *, shard: int = 0, limit: int = 1_000) -> list[EventRow]:
        """The events of a shard whose number is above `n`, oldest first."""
        values = {"shard": shard, "n": n, "limit": min(limit, MAX_ROWS)}
        return await self._rows(EventRow, "events_after", values)

    async def newest_events(
        self, *, shard: int = 0, before: int | None = None, limit: int = 100
    ) -> list[EventRow]:
        """The events of a shard, newest first, from below number `before`."""
        values = {"shard": shard, "before": before, "limit": min(limit, MAX_ROWS)}
        return await self._rows(EventRow, "newest_events", values)

    async def attempts(self, id: str, *, limit: int = 1_000) -> list[AttemptRow]:
        """The attempts of one task, oldest first."""
        return await self._rows(AttemptRow, "attempts_of_task", {"id": id, "limit": min(limit, MAX_ROWS)})

    async def actions(self, *, before: int | None = None, limit: int = 100) -> list[ActionRow]:
        """What operators did, newest first, before a moment in server milliseconds."""
        return await self._rows(ActionRow, "list_actions", {"before": before, "limit": min(limit, MAX_ROWS)})

    async def counts(self, *, queue: str | None = None, since: str | None = None) -> dict[str, int]:
        """Tasks per state, of one queue or all, among ids from `since` on."""
        rows = await self._fetch("count_tasks", {"queue": queue, "since": since})
        return {row["state"]: row["count"] for row in rows}

    async def position(self, shard: int = 0) -> Position | None:
        """How far this shard is committed; None before its first event."""
        return next((place for place in await self.positions() if place.shard == shard), None)

    async def positions(self) -> list[Position]:
        """How far each shard is committed."""
        return await self._rows(Position, "positions", {})

    async def payload(self, id: str) -> PayloadRow | None:
        """The accepted bytes, or None when they are not kept or this role may not see them."""
        with suppress(psycopg.errors.InsufficientPrivilege):
            rows = await self._fetch("payload_of_task", {"id": id}, own_role=True)
            return msgspec.convert(rows[0], PayloadRow) if rows else None
        return None

    async def _rows[T](self, kind: type[T], name: str, values: dict[str, Any]) -> list[T]:
        return [kind(**row) for row in await self._fetch(name, values)]

    async def _fetch(
        self, name: str, values: dict[str, Any], *, own_role: bool = False
    ) -> list[dict[str, Any]]:
        query_task = asyncio.create_task(self._query(name, values, own_role=own_role))
        try:
            done, _ = await asyncio.wait({query_task}, timeout=DEADLINE_S)
        finally:
            if not query_task.done():
                # Its clean-up asks the server to cancel, which may take longer than a caller can wait.
                query_task.cancel()
                self._strays.add(query_task)
                query_task.add_done_callback(self._let_go)
        if not done:
            raise Unavailable(f"the history did not answer {name} in time; try again")
        return query_task.result()

    def _let_go(self, stray: asyncio.Task[Any]) -> None:
        self._strays.discard(stray)
        if not stray.cancelled():
            stray.exception()  # nobody is left to hear it

    async def _query(self, name: str, values: dict[str, Any], *, own_role: bool) -> list[dict[str, Any]]:
        try:
            async with self._pool.connection() as connection, connection.transaction():
                if own_role:
                    await connection.execute(query("own_role"))
                cursor = await connection.execute(query(name), values)
                return await cursor.fetchall()
        except psycopg.errors.InsufficientPrivilege:
            raise
        except (PoolTimeout, PoolClosed, TooManyRequests) as error:
            raise Unavailable("the history has no free connection; try again") from error
        except psycopg.errors.QueryCanceled as error:
            raise Unavailable(f"the history did not answer {name} in time; try again") from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise Unavailable("the history is not set up yet; run `taskq migrate`") from error
        except (psycopg.OperationalError, OSError) as error:
            raise Unavailable("the history is away; try again") from error


def _only(values: Sequence[str]) -> str | None:
    return values[0] if values else None
