"""A relay's connection: direct (no transaction pooling), limited in time, and the only one of its shard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from taskq_core.audit.queries import query
from taskq_core.audit.store import Connection

__all__ = ["connect", "lock_shard", "wait_for_shard"]

STATEMENT_MS = 30_000
LOCK_MS = 5_000
CONNECT_S = 5
STANDBY_S = 1.0  # how often a second relay asks whether the first is gone


@asynccontextmanager
async def connect(database_url: str) -> AsyncGenerator[Connection]:
    """A connection with the relay's rights and limits. Raises psycopg.Error when there is none to be had."""
    connection: Connection = await psycopg.AsyncConnection[tuple[Any, ...]].connect(
        database_url,
        autocommit=True,
        connect_timeout=CONNECT_S,
        application_name="taskq relay",
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
    )
    try:
        limits = {"statement_ms": str(STATEMENT_MS), "lock_ms": str(LOCK_MS)}
        await connection.execute(query("relay_settings"), limits)
        cursor = await connection.execute(query("may_be_relay"))
        if await cursor.fetchone() == (True,):
            await connection.execute(query("become_relay"))
        yield connection
    finally:
        await connection.close()


async def lock_shard(connection: Connection, shard: int) -> bool:
    """Whether this session is now the shard's relay. The lock ends with the session, however it ends."""
    cursor = await connection.execute(query("lock_shard"), {"shard": shard})
    return await cursor.fetchone() == (True,)


async def wait_for_shard(connection: Connection, shard: int) -> None:
    """Stand by until the shard's relay is gone."""
    while not await lock_shard(connection, shard):
        await asyncio.sleep(STANDBY_S)
