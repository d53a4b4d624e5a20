"""Driving the functions one by one, and reading what stands in Redis after each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, cast

from taskq_core.broker.functions import Broker
from taskq_core.broker.keys import GROUP, RETURNED, STREAMS
from taskq_core.broker.library import Library
from taskq_core.broker.protocol import Claim, Finish, Op, QueueWant, Taken, TakeWant
from taskq_core.broker.record import TaskRecord, decode_record
from taskq_core.model.event import Event, decode_batch
from taskq_core.model.task import Options, Submission, pack_options

QUEUE = "q"
NAME = "job"
OPTIONS = Options(max_attempts=3, base=1.0, factor=2.0)


class Bench:
    """One empty Redis and a broker on it; every call is made from synchronous code."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self.broker = self.run(Broker.connect(url, patience=5.0))
        self.run(self.broker.redis.flushall())
        self.run(self.broker.load())
        self.run(self.broker.ensure([QUEUE]))
        self.keys = self.broker.keys

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def use(self, library: Library) -> None:
        """Another build of the functions."""
        self.broker._library = library
        self.run(self.broker.load())

    def close(self) -> None:
        self.run(self.broker.close())
        self._runner.close()

    # --- steps

    def submission(
        self, task_id: str, *, delay_ms: int = 0, unique: str = "", digest: str = "d"
    ) -> Submission:
        return Submission(
            task_id,
            NAME,
            QUEUE,
            "normal",
            '{"a":1}',
            pack_options(OPTIONS),
            digest,
            delay_ms=delay_ms,
            unique_key=unique,
        )

    def submit(self, *, delay_ms: int = 0, unique: str = "") -> str:
        (task_id,) = self.run(self.broker.new_ids(1))
        (reply,) = self.run(self.broker.submit([self.submission(task_id, delay_ms=delay_ms, unique=unique)]))
        assert reply.code == ""
        return reply.id

    def want(self, owner: str, most: int = 1, streams: tuple[str, ...] = STREAMS, **more: Any) -> TakeWant:
        return TakeWant(owner, "v1", [most, 0, 0], [QueueWant(QUEUE, [1])], list(streams), **more)

    def take(self, owner: str = "me.1", most: int = 1) -> Taken:
        return self.run(self.broker.take(self.want(owner, most)))

    def settle(self, owner: str, claim: Claim, op: Op, **more: Any) -> str:
        finish = Finish(claim.task_id, claim.entry, claim.epoch, op, run_ms=1.0, body='{"type":"E"}', **more)
        (settled,) = self.run(self.broker.settle(owner, [finish]))
        return settled.state

    def make_due(self) -> None:
        """The due time of everything has come: the scores change, not the clock."""
        for task_id in self.run(self.broker.redis.zrange(self.keys.due, 0, -1)):
            self.run(self.broker.redis.zadd(self.keys.due, {task_id: 0}))

    def age_pending(self, idle_ms: int) -> None:
        """Every pending entry looks as if its holder had been silent for so long."""
        for stream in STREAMS:
            key = self.keys.ready(QUEUE, stream)
            for entry in self.pending(stream):
                self.run(
                    self.broker.redis.xclaim(
                        key, GROUP, entry["consumer"], 0, [entry["message_id"]], idle=idle_ms, justid=True
                    )
                )

    # --- looking

    def pending(self, stream: str) -> list[dict[str, Any]]:
        key = self.keys.ready(QUEUE, stream)
        found = self.run(self.broker.redis.xpending_range(key, GROUP, "-", "+", 10_000))
        return cast("list[dict[str, Any]]", found)

    def entries(self) -> dict[str, list[str]]:
        """Task id -> its entries in all ready streams."""
        found: dict[str, list[str]] = {}
        for stream in STREAMS:
            for entry, fields in self.run(self.broker.redis.xrange(self.keys.ready(QUEUE, stream))):
                found.setdefault(fields[b"t"].decode(), []).append(entry.decode())
        return found

    def members(self, key: str) -> set[str]:
        return {member.decode() for member in self.run(self.broker.redis.zrange(key, 0, -1))}

    def record(self, task_id: str) -> TaskRecord | None:
        return decode_record(task_id, self.run(self.broker.redis.hgetall(self.keys.task(task_id))))

    def events(self) -> list[Event]:
        """Everything that was written, in order."""
        batches = [decode_batch(f[b"e"]) for _, f in self.run(self.broker.redis.xrange(self.keys.events))]
        numbers = [n for batch in batches for n in range(batch.n, batch.n + len(batch.events))]
        assert numbers == list(range(1, len(numbers) + 1)), "the count n has a hole"
        return [event for batch in batches for event in batch.events]

    def counters(self) -> Counter[str]:
        raw = self.run(self.broker.redis.hgetall(self.keys.stats(QUEUE)))
        return Counter({field.decode(): int(value) for field, value in raw.items()})

    def holders(self) -> set[str]:
        return {e["consumer"].decode() for stream in STREAMS for e in self.pending(stream)} - {RETURNED}
