"""Follow what happens, without a hole: live messages for speed, numbers for truth.

Every event of a shard has a number n. A message whose first n does not follow the last one seen, that
carries no body, or that never came (the head is asked once a second) makes the feed read the event stream
from where it stands, and the history where the stream was trimmed already. What neither has is told as a gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

import msgspec
from redis.exceptions import RedisError

from taskq_core.audit.rows import EventRow
from taskq_core.clock import monotonic_ns
from taskq_core.errors import InvalidOption, Unavailable
from taskq_core.model.event import LiveMessage
from taskq_core.read.cursor import decode_cursor, encode_cursor
from taskq_core.read.facts import event_view, view_of_event_row
from taskq_core.read.sources import Sources
from taskq_core.read.tail import Head, Tail, place_batch, read_after
from taskq_core.read.views import EventView, FeedBatch, ProgressView

__all__ = ["Feed"]

log = logging.getLogger("taskq.read")

HEARTBEAT_S = 1.0
BACKLOG = 1_000  # live messages kept for a slow reader; what is beyond is read again later
PAGE = 1_000  # events in one refill
_KIND = "feed"


class Feed:
    """One follower. `run` yields until it is closed."""

    def __init__(self, sources: Sources, *, after: str | None = None, task_id: str | None = None) -> None:
        self._sources = sources
        self._task_id = task_id
        self._place = None if after is None else _decode(after, sources.keys.shard)
        self._told_at = 0
        self._messages: asyncio.Queue[LiveMessage] = asyncio.Queue(BACKLOG)

    async def run(self) -> AsyncGenerator[FeedBatch]:
        """Yields at once with the cursor of the start. Raises Unavailable when Redis is away by then."""
        head = await self._sources.head()
        self._place = self._place or head
        listener = asyncio.create_task(self._listen())
        try:
            yield self._told(self._batch([]))
            while True:
                message = await self._message()
                batch = self._live(message) if message else None
                if batch is not None:
                    if batch.events or batch.progress or self._is_quiet():
                        yield self._told(batch)
                elif message is None or self._is_new(message):
                    async with aclosing(self._refill()) as refill:
                        async for one in refill:
                            yield self._told(one)
                    if self._is_quiet():
                        yield self._told(self._batch([]))
        finally:
            _ = listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    async def _message(self) -> LiveMessage | None:
        """The next live message; None after a second of silence."""
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                return await self._messages.get()
        except TimeoutError:
            return None

    def _told(self, batch: FeedBatch) -> FeedBatch:
        self._told_at = monotonic_ns()
        return batch

    def _is_quiet(self) -> bool:
        """Whether the reader has heard nothing for a second."""
        return monotonic_ns() - self._told_at > HEARTBEAT_S * 1e9

    async def _listen(self) -> None:
        """Keep a subscription; while there is none, the head is still asked every second."""
        while True:
            try:
                async for message in self._sources.broker.live():
                    with suppress(asyncio.QueueFull):
                        self._messages.put_nowait(message)
            except (RedisError, OSError, ValueError) as error:
                log.warning("live messages are not heard, asking every second instead: %s", error)
            await asyncio.sleep(HEARTBEAT_S)

    # --- live

    def _live(self, message: LiveMessage) -> FeedBatch | None:
        """What the message itself brings; None when it only tells that there is something."""
        return self._progress(message) if message.n == 0 else self._next(message)

    def _progress(self, message: LiveMessage) -> FeedBatch:
        """A progress report, which is no event: `entry` is the task's id."""
        told: dict[str, ProgressView] = {}
        if self._task_id in {None, message.entry}:
            with suppress(msgspec.MsgspecError):
                told[message.entry] = msgspec.json.decode(message.body, type=ProgressView)
        return self._batch([], progress=told)

    def _is_new(self, message: LiveMessage) -> bool:
        """Whether it tells of anything behind the place, by number or (numbers began anew) by entry."""
        place = self._at
        last = message.n + max(message.count, 1) - 1
        return last > place.n or (message.count > 0 and _entry(message.entry) > (place.ms, place.seq))

    def _next(self, message: LiveMessage) -> FeedBatch | None:
        """The message's events, when they are exactly those that follow."""
        place = self._at
        if not message.body or message.n != place.n + 1 or _entry(message.entry) <= (place.ms, place.seq):
            return None
        try:
            placed = place_batch(self._sources.keys.shard, place.incarnation, message.entry, message.body)
        except msgspec.DecodeError:
            return None
        self._place = Head(place.incarnation, placed[-1].n, *_entry(message.entry))
        return self._batch([event_view(one) for one in placed])

    # --- refill

    async def _refill(self) -> AsyncGenerator[FeedBatch]:
        """Everything from the place to the head; when a store is away, the next heartbeat tries again."""
        with suppress(Unavailable):
            head = await self._sources.head()
            missed = await self._begin_anew(head)
            while self._at.n < head.n or missed:
                batch = await self._refill_once(head, missed)
                missed = 0
                yield batch

    async def _refill_once(self, head: Head, missed: int) -> FeedBatch:
        tail = await self._read()
        first = tail.events[0].n if tail.events else head.n + 1
        if first > self._at.n + 1:
            rows = await self._from_history(first)
            missed += self._skip(rows, first)
            return self._batch([view_of_event_row(row) for row in rows], missed=missed)
        self._place = tail.end
        return self._batch([event_view(placed) for placed in tail.events], missed=missed)

    async def _begin_anew(self, head: Head) -> int:
        """Numbers that began anew, or went back with a Redis that lost its last second.

        How many events were missed nobody knows; it is told as one.
        """
        place = self._at
        if head.incarnation == place.incarnation and head.n >= place.n:
            return 0
        behind = await self._sources.tail_after(Head(head.incarnation, 0, place.ms, place.seq), limit=1)
        n = behind.events[0].n - 1 if behind.events else head.n
        self._place = Head(head.incarnation, n, place.ms, place.seq)
        return 1

    async def _read(self) -> Tail:
        """Events behind the place; the place's own entry is read again, it may have been left half-way."""
        place = self._at
        read = read_after(self._sources.redis, self._sources.keys, place, inclusive=True, limit=PAGE)
        tail = await self._sources.live(read)
        return Tail([event for event in tail.events if event.n > place.n], tail.complete, tail.end)

    async def _from_history(self, first: int) -> list[EventRow]:
        """What follows the place without a hole, up to below `first`; nothing when the history is away."""
        place = self._at
        rows: list[EventRow] = []
        with suppress(Unavailable):
            rows = await self._sources.past(
                "events_after",
                lambda history: history.events_after(place.n, shard=self._sources.keys.shard, limit=PAGE),
            )
        return [row for row in rows if row.incarnation == place.incarnation and row.n < first]

    def _skip(self, rows: Sequence[EventRow], first: int) -> int:
        """Move the place behind the rows, or behind the hole when there are none; answers what was missed."""
        place = self._at
        if not rows:
            self._place = Head(place.incarnation, first - 1, place.ms, place.seq)
            return first - 1 - place.n
        last = rows[-1]
        self._place = Head(place.incarnation, last.n, last.ms, last.seq)
        return last.n - place.n - len(rows)

    # --- batches

    @property
    def _at(self) -> Head:
        place = self._place
        if place is None:
            raise RuntimeError("the feed has not begun")
        return place

    def _batch(
        self, events: list[EventView], *, missed: int = 0, progress: dict[str, ProgressView] | None = None
    ) -> FeedBatch:
        if self._task_id is not None:
            events = [event for event in events if event.task_id == self._task_id]
        return FeedBatch(
            cursor=_encode(self._at, self._sources.keys.shard),
            events=events,
            missed=missed,
            progress=progress or {},
        )


def _entry(text: str) -> tuple[int, int]:
    ms, _, seq = text.partition("-")
    return int(ms), int(seq)


def _encode(place: Head, shard: int) -> str:
    """The cursor names the place in each shard."""
    return encode_cursor(_KIND, [[shard, place.incarnation, place.n, place.ms, place.seq]])


def _decode(cursor: str, shard: int) -> Head:
    (places,) = decode_cursor(_KIND, cursor, tuple[list[tuple[int, int, int, int, int]]])
    for found, incarnation, n, ms, seq in places:
        if found == shard:
            return Head(incarnation, n, ms, seq)
    raise InvalidOption("the cursor belongs to another system")
