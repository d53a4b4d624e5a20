"""The counts of one shard from one transaction: what lies where, and the counters, in agreement.

A queue's counters and the lengths of its streams change in the same calls of the functions; read in one
MULTI they add up exactly, however busy the system is. That is what makes the ledger an alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

from taskq_core.broker.keys import GROUP, RETURNED, STREAMS, ShardKeys
from taskq_core.errors import Unavailable

__all__ = ["Counts", "LedgerFacts", "QueueCounts", "ledger", "ledger_of", "queue_names", "read_counts"]

_ROUNDS = 5  # a queue may be born between the list of queues and the transaction: read again


class LedgerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Every accepted task is alive or has ended."""

    accepted: int
    live: int
    ended: int

    @property
    def unexplained(self) -> int:
        """Tasks that the books cannot account for; below zero, tasks that were never booked in."""
        return self.accepted - self.live - self.ended


class QueueCounts(msgspec.Struct, kw_only=True):
    """One queue in the transaction."""

    paused: bool
    counters: dict[str, int]
    length: dict[str, int]  # by stream
    running: int
    returned: dict[str, int]  # by stream; given back, still in the stream, run by nobody

    @property
    def accepted(self) -> int:
        """Lives begun: submissions, and ended tasks that were given a new life."""
        return _total(self.counters, "submitted:") + _total(self.counters, "retried:")

    @property
    def ended(self) -> int:
        """Lives ended, in whichever way."""
        return _total(self.counters, "ended:")

    @property
    def ready(self) -> int:
        """Tasks in the streams: waiting to be taken, or running."""
        return sum(self.length.values())

    @property
    def apart(self) -> int:
        """Tasks in `due` and `parked` together."""
        return max(0, self.accepted - self.ended - self.ready)


class Counts(msgspec.Struct, kw_only=True):
    """The transaction's answer."""

    at: int  # server ms
    head: int  # number of the last event
    stream_length: int  # entries of the event stream
    due: int  # scheduled and retrying
    parked: int
    dead: int  # dead letters that are still kept
    queues: dict[str, QueueCounts]


async def queue_names(redis: Redis, keys: ShardKeys) -> list[str]:
    """Every queue that a task was ever submitted to, sorted."""
    members = cast("set[bytes]", await redis.smembers(keys.queues))
    return sorted(member.decode() for member in members)


async def ledger(redis: Redis, keys: ShardKeys) -> LedgerFacts:
    """The ledger alone."""
    return ledger_of(await read_counts(redis, keys))


def ledger_of(counts: Counts) -> LedgerFacts:
    """The sums over all queues."""
    queues = counts.queues.values()
    return LedgerFacts(
        accepted=sum(queue.accepted for queue in queues),
        live=sum(queue.ready for queue in queues) + counts.due + counts.parked,
        ended=sum(queue.ended for queue in queues),
    )


async def read_counts(redis: Redis, keys: ShardKeys) -> Counts:
    """One transaction. Raises Unavailable when queues are born faster than it can be repeated."""
    names = await queue_names(redis, keys)
    for _ in range(_ROUNDS):
        pipe = redis.pipeline(transaction=True)
        _ask_counts(pipe, keys, names)
        replies = iter(await pipe.execute(raise_on_error=False))
        now_names = sorted(member.decode() for member in _checked(next(replies)))
        if now_names == names:
            return _take_counts(replies, names)
        names = now_names
    raise Unavailable("queues appear faster than they can be read; try again")


def _ask_counts(pipe: Pipeline, keys: ShardKeys, names: Sequence[str]) -> None:
    """Queue the commands in the order in which `_take_counts` reads the replies."""
    _ = pipe.smembers(keys.queues)
    _ = pipe.time()  # pyright: ignore[reportUnknownMemberType]
    _ = pipe.hget(keys.meta, "n")
    _ = pipe.xlen(keys.events)
    for zset in (keys.due, keys.parked, keys.dead):
        _ = pipe.zcard(zset)
    for name in names:
        _ = pipe.hgetall(keys.stats(name))
        _ = pipe.hget(keys.queue(name), "paused")
        for stream in STREAMS:
            _ = pipe.xlen(keys.ready(name, stream))
            _ = pipe.xpending(keys.ready(name, stream), GROUP)


def _take_counts(replies: Any, names: Sequence[str]) -> Counts:
    seconds, micros = _checked(next(replies))
    head, length, due, parked, dead = (_checked(next(replies)) for _ in range(5))
    return Counts(
        at=int(seconds) * 1000 + int(micros) // 1000,
        head=int(head or 0),
        stream_length=int(length),
        due=int(due),
        parked=int(parked),
        dead=int(dead),
        queues={name: _take_queue(replies) for name in names},
    )


def _take_queue(replies: Any) -> QueueCounts:
    stats = cast("dict[bytes, bytes]", _checked(next(replies)))
    paused = _checked(next(replies)) is not None
    length: dict[str, int] = {}
    returned: dict[str, int] = {}
    running = 0
    for stream in STREAMS:
        length[stream] = int(_checked(next(replies)))
        pending = _pending_by_consumer(next(replies))
        returned[stream] = pending.pop(RETURNED, 0)
        running += sum(pending.values())
    counters = {field.decode(): int(n) for field, n in stats.items()}
    return QueueCounts(paused=paused, counters=counters, length=length, running=running, returned=returned)


def _pending_by_consumer(reply: Any) -> dict[str, int]:
    """Of an XPENDING summary; a stream without its group has nothing pending."""
    if isinstance(reply, ResponseError) and "NOGROUP" in str(reply):
        return {}
    summary = cast("dict[str, Any]", _checked(reply))
    consumers = cast("list[dict[str, Any]]", summary["consumers"] or [])
    return {one["name"].decode(): int(one["pending"]) for one in consumers}


def _checked(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _total(counters: dict[str, int], prefix: str) -> int:
    return sum(n for field, n in counters.items() if field.startswith(prefix))
