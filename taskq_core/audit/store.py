"""One batch into the history, in one transaction.

Events first; what of them was not there yet is folded into the other tables. So a batch may come twice,
in pieces or out of order, and the rows are the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import psycopg

from taskq_core.audit.batch import Broken, Placed
from taskq_core.audit.fold import ActionFold, Folded, fold
from taskq_core.audit.queries import query
from taskq_core.audit.wire import (
    ATTEMPT_TYPES,
    EVENT_TYPES,
    PAYLOAD_TYPES,
    TASK_TYPES,
    Row,
    attempt_row,
    event_row,
    payload_row,
    task_row,
)

__all__ = ["Committed", "Connection", "Mark", "Rejected", "Store"]

log = logging.getLogger("taskq.relay")

type Connection = psycopg.AsyncConnection[tuple[Any, ...]]

# What an event can be guilty of. Everything else is the server's trouble: wait and try again.
_GUILT = (psycopg.DataError, psycopg.IntegrityError, ValueError, OverflowError)
_GUILTY_STATES = ("54",)  # a program limit: too large for an index, too deep, too long


class Rejected(Exception):
    """Postgres, or the wire format, does not take some event of the batch."""


class Mark(msgspec.Struct, frozen=True):
    """A position in a shard's stream."""

    incarnation: int
    ms: int
    seq: int
    n: int
    at: int  # server milliseconds


class Committed(msgspec.Struct, frozen=True):
    """What a transaction did."""

    events: int  # new ones
    replayed: int  # those that were there
    differing: int  # of the replayed: with another content


class Store:
    """Writes one shard's batches over one connection, which must not be shared."""

    def __init__(self, connection: Connection, shard: int) -> None:
        self._connection = connection
        self._shard = shard

    async def prepare(self) -> None:
        """Make the session's staging tables; once per connection."""
        for table in ("events", "tasks", "attempts", "payloads"):
            await self._connection.execute(query(f"stage_{table}"))

    async def position(self) -> Mark | None:
        """How far the shard is committed."""
        cursor = await self._connection.execute(query("get_position"), {"shard": self._shard})
        row = await cursor.fetchone()
        return None if row is None else Mark(*row)

    async def commit(self, events: Sequence[Placed], upto: Mark) -> Committed:
        """Keep these events and what they amount to. Raises Rejected, or psycopg.Error when it cannot now."""
        try:
            async with self._connection.transaction():
                done = await self._write(events)
                await self._set_position(upto)
                return done
        except psycopg.Error as error:
            if isinstance(error, _GUILT) or (error.sqlstate or "").startswith(_GUILTY_STATES):
                raise Rejected(_one_line(error)) from error
            raise
        except _GUILT as error:
            raise Rejected(_one_line(error)) from error

    async def quarantine(self, broken: Iterable[Broken], upto: Mark | None = None) -> None:
        """Keep raw what cannot be kept as an event."""
        async with self._connection.transaction():
            for one in broken:
                values = self._place(one.place) | {"n": one.n, "raw": one.raw, "reason": one.reason[:2000]}
                await self._connection.execute(query("insert_quarantine"), values)
            if upto is not None:
                await self._set_position(upto)

    async def _write(self, events: Sequence[Placed]) -> Committed:
        if not events:
            return Committed(0, 0, 0)
        shard = self._shard
        await self._copy("copy_events", EVENT_TYPES, (event_row(placed, shard) for placed in events))
        inserting = asyncio.ensure_future(self._connection.execute(query("insert_events")))
        await asyncio.sleep(0)  # the server works while we fold, expecting that all are new
        rows = fold(events)
        known = set(await (await inserting).fetchall())
        if known:
            rows = fold(placed for placed in events if placed.place[1:] not in known)
        await self._merge(rows)
        differing = await self._differing() if known else 0
        return Committed(len(events) - len(known), len(known), differing)

    async def _differing(self) -> int:
        rows = await (await self._connection.execute(query("differing_events"))).fetchall()
        for ms, seq, idx in rows[:10]:
            log.error("event %s-%s-%s of shard %s is kept with another content", ms, seq, idx, self._shard)
        return len(rows)

    async def _merge(self, rows: Folded) -> None:
        shard = self._shard
        # In key order, so that two writers could never wait for each other.
        tasks = (task_row(rows.tasks[key], shard) for key in sorted(rows.tasks))
        runs = (attempt_row(rows.attempts[key]) for key in sorted(rows.attempts))
        bodies = (payload_row(rows.payloads[key]) for key in sorted(rows.payloads))
        if rows.tasks:
            await self._copy("copy_tasks", TASK_TYPES, tasks)
            await self._connection.execute(query("merge_tasks"))
        if rows.attempts:
            await self._copy("copy_attempts", ATTEMPT_TYPES, runs)
            await self._connection.execute(query("merge_attempts"))
        if rows.payloads:
            await self._copy("copy_payloads", PAYLOAD_TYPES, bodies)
            await self._connection.execute(query("merge_payloads"))
        for action in rows.actions:
            await self._keep_action(action)

    async def _copy(self, name: str, types: Sequence[str], rows: Iterable[Row]) -> None:
        async with self._connection.cursor() as cursor, cursor.copy(query(name)) as copy:
            copy.set_types(types)
            for row in rows:
                await copy.write_row(row)

    async def _keep_action(self, action: ActionFold) -> None:
        values = self._place(action.place) | {
            "at": action.at,
            "action": action.action,
            "arguments": action.arguments,
            "actor": action.actor,
            "reason": action.reason,
            "task_id": action.task_id,
        }
        await self._connection.execute(query("insert_action"), values)
        if action.action == "mark_release":
            await self._connection.execute(query("insert_mark"), values)

    def _place(self, place: tuple[int, int, int, int]) -> dict[str, Any]:
        incarnation, ms, seq, idx = place
        return {"shard": self._shard, "incarnation": incarnation, "ms": ms, "seq": seq, "idx": idx}

    async def _set_position(self, upto: Mark) -> None:
        values = msgspec.structs.asdict(upto) | {"shard": self._shard}
        await self._connection.execute(query("set_position"), values)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
