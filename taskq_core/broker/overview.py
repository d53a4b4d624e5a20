"""What Redis knows about the system as a whole, read in three bounded round trips.

The counts and the ledger come from one transaction, so that they agree with each other while tasks run.
What a transaction cannot give (whose tasks wait in the shared sorted sets, how old the oldest is) is read
right behind it, from at most `SAMPLE` members of each set. All times are server milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from taskq_core.broker.counts import Counts, LedgerFacts, QueueCounts, ledger_of, read_counts
from taskq_core.broker.keys import AUDIT_GROUP, GROUP, RETURNED, WORKERS, ShardKeys, worker_key
from taskq_core.model.event import decode_batch
from taskq_core.model.lifecycle import State

__all__ = [
    "QueueFacts",
    "RelayFacts",
    "RunnerFacts",
    "SystemFacts",
    "WorkerFacts",
    "read_system",
    "read_workers",
]

SAMPLE = 1000  # members read of `due`, `parked` and `dead`: up to here their split by queue is exact
MAX_WORKERS = 1000


class QueueFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One queue: where its tasks are, and its counters as the functions wrote them."""

    name: str
    paused: bool
    depth: dict[str, int]  # scheduled, queued, running, retrying, parked, dead
    oldest_ms: int | None  # when the oldest task that waits to be taken became ready
    counters: dict[str, int]  # the hash `stats:<queue>`


class RelayFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The event stream, and what of it the audit group has not acknowledged."""

    head: int  # number of the last event
    stream_length: int  # entries, the audited ones that are still kept included
    backlog: int  # events
    oldest_ms: int | None  # when the oldest unacknowledged event was written


class RunnerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A child process, as its worker describes it."""

    pid: int | None = None
    rss: int | None = None
    tasks: int | None = None
    loop_lag_s: float | None = None


class WorkerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as it last described itself; only the id and the time come from elsewhere."""

    id: str
    host: str | None = None
    pid: int | None = None
    started_at: int | None = None
    seen_at: int | None = None
    queues: list[str] = []
    slots: int | None = None
    busy: int | None = None
    runners: list[RunnerFacts] = []
    code_version: str | None = None
    state: str | None = None


class SystemFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that Redis knows, at one moment."""

    at: int
    queues: list[QueueFacts]
    ledger: LedgerFacts
    relay: RelayFacts
    workers: list[WorkerFacts]
    memory_used: int  # bytes
    memory_limit: int  # bytes; 0: none


async def read_system(redis: Redis, keys: ShardKeys) -> SystemFacts:
    """Everything at once. Raises what the connection raises."""
    counts = await read_counts(redis, keys)
    oldest = await _read_oldest(redis, keys, counts)
    apart = await _read_apart(redis, keys, counts)
    memory = await redis.info("memory")  # pyright: ignore[reportUnknownMemberType]
    return SystemFacts(
        at=counts.at,
        queues=[_queue(name, queue, oldest.get(name), apart) for name, queue in counts.queues.items()],
        ledger=ledger_of(counts),
        relay=await _read_relay(redis, keys, counts),
        workers=(await read_workers(redis))[0],
        memory_used=int(memory.get("used_memory", 0)),
        memory_limit=int(memory.get("maxmemory", 0)),
    )


async def read_workers(redis: Redis) -> tuple[list[WorkerFacts], int]:
    """The workers that described themselves lately, longest running first, and the server's time."""
    pipe = redis.pipeline(transaction=True)
    _ = pipe.time()  # pyright: ignore[reportUnknownMemberType]
    _ = pipe.zrange(WORKERS, 0, MAX_WORKERS - 1, withscores=True)  # pyright: ignore[reportUnknownMemberType]
    (seconds, micros), seen = cast("tuple[tuple[int, int], list[tuple[bytes, float]]]", await pipe.execute())
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    if not seen:
        return [], now_ms
    pipe = redis.pipeline(transaction=False)
    for worker_id, _ in seen:
        _ = pipe.hget(worker_key(worker_id.decode()), "v")
    told = cast("list[bytes | None]", await pipe.execute())
    found = [
        _worker(worker_id.decode(), int(score), raw)
        for (worker_id, score), raw in zip(seen, told, strict=True)
    ]
    return sorted((worker for worker in found if worker), key=lambda w: (w.started_at or 0, w.id)), now_ms


def _worker(worker_id: str, seen_ms: int, raw: bytes | None) -> WorkerFacts | None:
    """None when its description has expired; one that cannot be read is shown by its id alone."""
    if raw is None:
        return None
    try:
        told = msgspec.json.decode(raw, type=WorkerFacts, strict=False)
    except msgspec.MsgspecError:
        return WorkerFacts(id=worker_id, seen_at=seen_ms)
    return msgspec.structs.replace(told, id=worker_id, seen_at=max(told.seen_at or 0, seen_ms))


# --- the oldest task that waits, by queue


async def _read_oldest(redis: Redis, keys: ShardKeys, counts: Counts) -> dict[str, int]:
    """When it became ready: the first entry never delivered, or the first that was given back.

    Every other entry is pending under a runner: a settled one is acknowledged and deleted in one step.
    """
    streams = [
        (name, stream) for name, queue in counts.queues.items() for stream, n in queue.length.items() if n
    ]
    if not streams:
        return {}
    pipe = redis.pipeline(transaction=False)
    for name, stream in streams:
        _ = pipe.xinfo_groups(keys.ready(name, stream))
    groups = await pipe.execute(raise_on_error=False)
    pipe = redis.pipeline(transaction=False)
    for (name, stream), reply in zip(streams, groups, strict=True):
        after = _last_delivered(reply, GROUP)
        _ = pipe.xrange(keys.ready(name, stream), min=f"({after}", count=1)
        _ = pipe.xpending_range(keys.ready(name, stream), GROUP, "-", "+", 1, RETURNED)
    replies = await pipe.execute(raise_on_error=False)
    oldest: dict[str, int] = {}
    for at, (name, _) in enumerate(streams):
        for ms in (*_entry_times(replies[2 * at]), *_entry_times(replies[2 * at + 1])):
            oldest[name] = min(ms, oldest.get(name, ms))
    return oldest


def _last_delivered(groups: Any, group: str) -> str:
    if isinstance(groups, Exception):
        return "0-0"
    for one in cast("list[dict[str, Any]]", groups):
        if one["name"].decode() == group:
            return cast("bytes", one["last-delivered-id"]).decode()
    return "0-0"


def _entry_times(reply: Any) -> list[int]:
    """Milliseconds of the entries in an XRANGE or extended XPENDING reply; none when it failed."""
    if isinstance(reply, Exception) or not reply:
        return []
    return [_ms_of(one["message_id"] if "message_id" in one else one[0]) for one in cast("list[Any]", reply)]


def _ms_of(entry: bytes) -> int:
    return int(entry.split(b"-")[0])


# --- whose tasks wait in the sorted sets


class _Apart(msgspec.Struct):
    """Tasks in the shared sorted sets, by queue; `exact` is false when they are a sample."""

    scheduled: Counter[str]
    retrying: Counter[str]
    parked: Counter[str]
    dead: Counter[str]
    due_exact: bool


async def _read_apart(redis: Redis, keys: ShardKeys, counts: Counts) -> _Apart:
    due = await _members(redis, keys, keys.due, counts.due)
    parked = await _members(redis, keys, keys.parked, counts.parked)
    dead = await _members(redis, keys, keys.dead, counts.dead)
    return _Apart(
        scheduled=Counter(queue for state, queue in due if state == State.SCHEDULED),
        retrying=Counter(queue for state, queue in due if state == State.RETRYING),
        parked=_scaled(Counter(queue for _, queue in parked), counts.parked),
        dead=_scaled(Counter(queue for _, queue in dead), counts.dead),
        due_exact=counts.due <= SAMPLE,
    )


async def _members(redis: Redis, keys: ShardKeys, zset: str, size: int) -> list[tuple[str, str]]:
    """State and queue of the members; of a random sample when there are more than `SAMPLE`."""
    if size == 0:
        return []
    ids = cast("list[bytes]", await redis.zrandmember(zset, SAMPLE))
    pipe = redis.pipeline(transaction=False)
    for task_id in ids:
        _ = pipe.hmget(keys.task(task_id.decode()), "l", "q")
    found = cast("list[list[bytes | None]]", await pipe.execute()) if ids else []
    return [(life.decode().partition(" ")[0], queue.decode()) for life, queue in found if life and queue]


def _scaled(sample: Counter[str], size: int) -> Counter[str]:
    seen = sample.total()
    if size <= SAMPLE or not seen:
        return sample
    return Counter({queue: round(n * size / seen) for queue, n in sample.items()})


def _queue(name: str, counts: QueueCounts, oldest_ms: int | None, apart: _Apart) -> QueueFacts:
    scheduled, retrying = apart.scheduled[name], apart.retrying[name]
    parked = apart.parked[name]
    if not apart.due_exact:
        # How many wait is known exactly from the counters; the sample only tells their shares.
        due = max(0, counts.apart - parked)
        seen = scheduled + retrying
        retrying = round(due * retrying / seen) if seen else 0
        scheduled = due - retrying
    depth = {
        State.SCHEDULED: scheduled,
        State.QUEUED: counts.ready - counts.running,
        State.RUNNING: counts.running,
        State.RETRYING: retrying,
        State.PARKED: parked,
        State.DEAD: apart.dead[name],
    }
    return QueueFacts(
        name=name,
        paused=counts.paused,
        depth={str(state): n for state, n in depth.items()},
        oldest_ms=oldest_ms,
        counters=counts.counters,
    )


# --- the relay


async def _read_relay(redis: Redis, keys: ShardKeys, counts: Counts) -> RelayFacts:
    """Events from the first unacknowledged entry to the head; all of them when no relay ever ran."""
    pipe = redis.pipeline(transaction=True)
    _ = pipe.xpending(keys.events, AUDIT_GROUP)
    _ = pipe.xinfo_groups(keys.events)
    pending, groups = await pipe.execute(raise_on_error=False)
    first = _first_pending(pending)
    start = first.decode() if first else f"({_last_delivered(groups, AUDIT_GROUP)}"
    pipe = redis.pipeline(transaction=True)
    _ = pipe.hget(keys.meta, "n")
    _ = pipe.xrange(keys.events, min=start, count=1)
    head, entries = cast("tuple[bytes | None, list[Any]]", await pipe.execute())
    last = int(head or 0)
    batch = _first_batch(entries)
    return RelayFacts(
        head=last,
        stream_length=counts.stream_length,
        backlog=max(0, last - batch[0] + 1) if batch else 0,
        oldest_ms=batch[1] if batch else None,
    )


def _first_pending(reply: Any) -> bytes | None:
    if isinstance(reply, Exception):
        return None
    return cast("bytes | None", cast("dict[str, Any]", reply)["min"])


def _first_batch(entries: Iterable[Any]) -> tuple[int, int] | None:
    """Number of the first event and time of an XRANGE reply."""
    for entry, fields in entries:
        batch = decode_batch(cast("dict[bytes, bytes]", fields)[b"e"])
        return batch.n, _ms_of(entry)
    return None
