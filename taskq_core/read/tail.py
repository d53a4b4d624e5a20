"""The event stream as the read side sees it: the part behind a position, or the newest part.

Both reads are bounded in events and say whether they saw everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from taskq_core.broker.keys import ShardKeys
from taskq_core.model.event import EventId, decode_batch
from taskq_core.read.facts import PlacedEvent

__all__ = [
    "MAX_EVENTS",
    "Head",
    "Tail",
    "format_position",
    "place_batch",
    "read_after",
    "read_before",
    "read_head",
]

MAX_EVENTS = 20_000
_PAGE = 4  # entries asked for at first; each holds at most 1 MiB, and mostly far less
_LARGEST_PAGE = 256
_SMALL_BYTES = 256 << 10
_LARGE_BYTES = 2 << 20
_FIRST = 1  # incarnation of a shard that nobody has numbered yet


type _Entry = tuple[bytes, dict[bytes, bytes]]


class Head(msgspec.Struct, frozen=True):
    """Where a shard's stream stands."""

    incarnation: int
    n: int  # number of the last event; 0: there was none
    ms: int
    seq: int


class Tail(msgspec.Struct, frozen=True):
    """Events in their order, and how far the reading came."""

    events: list[PlacedEvent]
    complete: bool  # false: more lie behind (or, read backwards, before) them
    end: Head  # of the last event read, or the position asked for when there was none


def format_position(head: Head, shard: int) -> str:
    """The position as views tell it."""
    return f"{shard}-{head.incarnation}-{head.ms}-{head.seq}"


async def read_head(redis: Redis, keys: ShardKeys) -> Head:
    """The newest event of the stream, with its number, in one transaction."""
    pipe = redis.pipeline(transaction=True)
    _ = pipe.hmget(keys.meta, "incarnation", "n")
    _ = pipe.xrevrange(keys.events, count=1)
    (incarnation, n), newest = cast("tuple[list[bytes | None], list[Any]]", await pipe.execute())
    ms, seq = _split(newest[0][0]) if newest else (0, 0)
    return Head(int(incarnation or _FIRST), int(n or 0), ms, seq)


async def read_after(
    redis: Redis, keys: ShardKeys, start: Head, *, inclusive: bool = False, limit: int = MAX_EVENTS
) -> Tail:
    """Events behind a position, at most about `limit`. `inclusive` reads its own entry once more."""
    events: list[PlacedEvent] = []
    bound = f"{start.ms}-{start.seq}" if inclusive else f"({start.ms}-{start.seq}"
    end = start
    page = _PAGE
    while len(events) < limit:
        entries = cast("list[_Entry]", await redis.xrange(keys.events, min=bound, count=page))
        for entry, fields in entries:
            events += place_batch(keys.shard, start.incarnation, entry, fields)
            end = Head(start.incarnation, events[-1].n, *_split(entry))
        if len(entries) < page:
            return Tail(events, complete=True, end=end)
        bound = f"({end.ms}-{end.seq}"
        page = _next_page(page, entries)
    return Tail(events, complete=False, end=end)


async def read_before(
    redis: Redis, keys: ShardKeys, incarnation: int, *, before: str = "+", limit: int = MAX_EVENTS
) -> Tail:
    """The newest events before an entry (`ms-seq`; it is left out), in their order.

    Complete means that the stream begins with the first event of its incarnation, and that it was read.
    """
    batches: list[list[PlacedEvent]] = []
    count = 0
    bound = before if before == "+" else f"({before}"
    end = Head(incarnation, 0, 0, 0)
    page = _PAGE
    while count < limit:
        entries = cast("list[_Entry]", await redis.xrevrange(keys.events, max=bound, count=page))
        for entry, fields in entries:
            batch = place_batch(keys.shard, incarnation, entry, fields)
            batches.append(batch)
            count += len(batch)
            if len(batches) == 1:
                end = Head(incarnation, batch[-1].n, *_split(entry))
        if len(entries) < page:
            break
        bound = f"({entries[-1][0].decode()}"
        page = _next_page(page, entries)
    events = [event for batch in reversed(batches) for event in batch]
    return Tail(events, complete=bool(events) and events[0].n == 1, end=end)


def _next_page(page: int, entries: list[_Entry]) -> int:
    """More entries at a time while they are small: an answer cannot be bounded in bytes."""
    size = sum(len(fields[b"e"]) for _, fields in entries)
    if size < _SMALL_BYTES:
        return min(page * 2, _LARGEST_PAGE)
    return max(1, page // 2) if size > _LARGE_BYTES else page


def place_batch(
    shard: int, incarnation: int, entry: bytes | str, fields: dict[bytes, bytes] | bytes
) -> list[PlacedEvent]:
    """The events of one entry. Raises msgspec.DecodeError for what no function wrote."""
    batch = decode_batch(fields if isinstance(fields, bytes) else fields[b"e"])
    ms, seq = _split(entry)
    return [
        PlacedEvent(
            EventId(shard, incarnation, ms, seq, index), batch.n + index, batch.at, batch.worker, event
        )
        for index, event in enumerate(batch.events)
    ]


def newer_first(events: Iterable[PlacedEvent]) -> list[PlacedEvent]:
    """The events, the newest first."""
    return sorted(events, key=lambda placed: placed.place, reverse=True)


def _split(entry: bytes | str) -> tuple[int, int]:
    ms, _, seq = (entry if isinstance(entry, str) else entry.decode()).partition("-")
    return int(ms), int(seq)
