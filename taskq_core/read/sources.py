"""The two stores behind a direct reader, each asked with a deadline.

A store that is away is said within two seconds. For a second after a question to the history went unanswered,
`past_rests` tells those who only want to add to what Redis says not to wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from taskq_core.audit.history import History
from taskq_core.broker.functions import Broker
from taskq_core.broker.keys import ShardKeys
from taskq_core.broker.record import TaskRecord, decode_record
from taskq_core.clock import monotonic_ns
from taskq_core.errors import Unavailable
from taskq_core.read.tail import MAX_EVENTS, Head, Tail, read_after, read_before, read_head

__all__ = ["QUERY_BOUNDS_S", "Sources"]

LIVE_S = 1.8
PAST_S = 1.5
REST_NS = 1_000_000_000
QUERY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class QueryTimes:
    """How long one kind of question to the history took: a histogram by `QUERY_BOUNDS_S`."""

    def __init__(self) -> None:
        self.counts = [0] * (len(QUERY_BOUNDS_S) + 1)
        self.sum_s = 0.0

    def note(self, seconds: float) -> None:
        """One answer."""
        at = next((i for i, bound in enumerate(QUERY_BOUNDS_S) if seconds <= bound), len(QUERY_BOUNDS_S))
        self.counts[at] += 1
        self.sum_s += seconds


class Sources:
    """Redis (through the broker) and the history."""

    def __init__(self, broker: Broker, history: History) -> None:
        self.broker = broker
        self.query_times: dict[str, QueryTimes] = {}
        self.most_events = MAX_EVENTS  # read behind the history's position, or back from the head
        self._history = history
        self._rests_until = 0
        self._late: set[asyncio.Future[Any]] = set()

    @property
    def redis(self) -> Redis:
        """The client; ask it through `live`."""
        return self.broker.redis

    @property
    def keys(self) -> ShardKeys:
        """The keys of the one shard."""
        return self.broker.keys

    async def live[T](self, asked: Awaitable[T]) -> T:
        """What Redis answers. Raises Unavailable when it is away or slow."""
        try:
            async with asyncio.timeout(LIVE_S):
                return await asked
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise Unavailable(f"Redis does not answer: {error or 'timed out'}") from error

    async def past[T](self, name: str, ask: Callable[[History], Coroutine[Any, Any, T]]) -> T:
        """What the history answers to a question of this name. Raises Unavailable as above.

        A late answer is left behind rather than cancelled: cancelling waits for the server too.
        """
        started = monotonic_ns()
        asked = asyncio.ensure_future(ask(self._history))
        self._late.add(asked)
        asked.add_done_callback(self._forget)
        done, _ = await asyncio.wait({asked}, timeout=PAST_S)
        if not done:
            _ = asked.cancel()
            self._rests_until = monotonic_ns() + REST_NS
            raise Unavailable("the history does not answer; try again")
        try:
            answer = asked.result()
        except Unavailable:
            self._rests_until = monotonic_ns() + REST_NS
            raise
        self.query_times.setdefault(name, QueryTimes()).note((monotonic_ns() - started) / 1e9)
        return answer

    @property
    def past_rests(self) -> bool:
        """Whether the history did not answer a moment ago."""
        return monotonic_ns() < self._rests_until

    def _forget(self, asked: asyncio.Future[Any]) -> None:
        self._late.discard(asked)
        if not asked.cancelled():
            _ = asked.exception()  # it was raised already, or nobody waits for it any more

    # --- what several views read

    async def record(self, task_id: str) -> TaskRecord | None:
        """A task as Redis holds it."""
        fields = await self.live(self.redis.hgetall(self.keys.task(task_id)))
        return decode_record(task_id, cast("dict[bytes, bytes]", fields))

    async def head(self) -> Head:
        """Where the event stream stands."""
        return await self.live(read_head(self.redis, self.keys))

    async def tail_after(self, start: Head, *, limit: int | None = None) -> Tail:
        """Events behind a position."""
        return await self.live(read_after(self.redis, self.keys, start, limit=limit or self.most_events))

    async def newest(self, incarnation: int, *, before: str = "+", limit: int | None = None) -> Tail:
        """The newest events."""
        limit = limit or self.most_events
        read = read_before(self.redis, self.keys, incarnation, before=before, limit=limit)
        return await self.live(read)

    async def committed(self) -> Head | None:
        """How far the history has come; None before its first event."""
        place = await self.past("positions", lambda history: history.position(self.keys.shard))
        return Head(place.incarnation, place.n, place.ms, place.seq) if place else None

    async def behind(self, committed: Head | None) -> Tail:
        """The events that the history does not have yet."""
        head = await self.head()
        if committed is None or committed.incarnation != head.incarnation:
            committed = Head(head.incarnation, 0, 0, 0)  # its numbers began anew: all of the stream is newer
        if committed.n >= head.n and (committed.ms, committed.seq) >= (head.ms, head.seq):
            return Tail([], complete=True, end=committed)
        return await self.tail_after(committed)
