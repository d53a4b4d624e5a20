"""Databases of one server, and an event source that a test holds in its hand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from taskq_core.audit.relay import Relay
from taskq_core.audit.source import Entry
from taskq_core.errors import Unavailable
from taskq_core.model.event import decode_batch
from tests.support.events import START_MS
from tests.support.wait import eventually

_numbers = itertools.count()


def fresh_database(server_url: str) -> str:
    """A new empty database on the server, as a connection string."""
    name = f"t{next(_numbers)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    return make_conninfo(server_url, dbname=name)


def rows(database_url: str, text: str, *values: Any) -> list[dict[str, Any]]:
    """What a query answers."""
    with psycopg.connect(database_url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(text.encode(), values).fetchall()


def execute(database_url: str, text: str) -> None:
    """Run a statement and commit."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(text.encode())


def _last_number(packed: bytes | None) -> int:
    """Number of the newest event in an entry; 0 where the entry cannot be read."""
    try:
        batch = decode_batch(packed or b"")
    except msgspec.MsgspecError:
        return 0
    return batch.n + len(batch.events) - 1


class ListSource:
    """Entries in a list, with a consumer group's bookkeeping; it can be told to fail."""

    def __init__(self, entries: Sequence[Entry] = (), shard: int = 0) -> None:
        self.shard = shard
        self.entries = list(entries)
        self.delivered = 0
        self.unacked: dict[tuple[int, int], Entry] = {}
        self.forgotten: list[tuple[str, int]] = []
        self.number = 1
        self.fail_ack = 0
        self.arrived = asyncio.Event()

    def add(self, entries: Sequence[Entry]) -> None:
        """More entries at the end."""
        self.entries += entries
        self.arrived.set()

    async def incarnation(self) -> int:
        """As EventSource."""
        return self.number

    async def raise_incarnation(self, to: int) -> None:
        """As EventSource."""
        self.number = to

    async def pending(self, after: tuple[int, int], limit: int) -> list[Entry]:
        """As EventSource; one entry a page."""
        del limit
        return [one for key, one in sorted(self.unacked.items()) if key > after][:1]

    async def fresh(self, wait_s: float, limit: int) -> list[Entry]:
        """As EventSource."""
        del limit
        if self.delivered == len(self.entries):
            self.arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.arrived.wait(), wait_s)
        new = self.entries[self.delivered :]
        self.delivered = len(self.entries)
        self.unacked |= {(one[0], one[1]): one for one in new}
        return new

    async def ack(self, ids: Sequence[tuple[int, int]]) -> None:
        """As EventSource."""
        if self.fail_ack:
            self.fail_ack -= 1
            raise Unavailable("the connection broke")
        for key in ids:
            del self.unacked[key]

    async def forget(self, ended: Sequence[tuple[str, int]]) -> None:
        """As EventSource."""
        self.forgotten += ended

    async def trim(self) -> int:
        """As EventSource."""
        return 0

    async def head(self) -> tuple[int, int]:
        """As EventSource, a minute after the first event."""
        return max((_last_number(packed) for *_, packed in self.entries), default=0), START_MS + 60_000

    async def end(self) -> tuple[int, int]:
        """As EventSource."""
        return self.entries[-1][:2] if self.entries else (0, 0)

    async def lacks(self, place: tuple[int, int]) -> bool:
        """As EventSource."""
        places = [one[:2] for one in self.entries]
        return place not in places and any(one < place for one in places)

    async def next_ms(self, after: tuple[int, int]) -> int | None:
        """As EventSource."""
        return next((one[0] for one in self.entries if one[:2] > after), None)

    def is_drained(self) -> bool:
        """Everything was delivered and acknowledged."""
        return self.delivered == len(self.entries) and not self.unacked


@contextlib.asynccontextmanager
async def running(relay: Relay) -> AsyncGenerator[Relay]:
    """A relay at work for the length of an `async with`."""
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    try:
        yield relay
    finally:
        stop.set()
        await task


async def carry(database_url: str, source: ListSource) -> Relay:
    """Let a relay work until the source is drained."""
    async with running(Relay(source, database_url)) as relay:
        await eventually(source.is_drained, "the relay to carry everything", timeout=30)
    return relay
