"""One feed of the system's events for all WebSockets of the process.

The last batches are kept, so that a client which comes back soon goes on from memory. One that stayed away
longer reads by itself until it has caught up, and joins the others there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

from taskq_core.errors import TaskqError, Unavailable
from taskq_core.read.reader import Reader
from taskq_core.read.views import EventView, FeedBatch

__all__ = ["Deliver", "Live"]

KEPT_BATCHES = 1_000
KNOWN_TASKS = 20_000
BEGIN_S = 3.0
PAUSE_S = 1.0
_log = logging.getLogger("taskq.api")

type Deliver = Callable[[FeedBatch], None]


class Live:
    """Follows from the first listener on; it goes on when nobody listens, so that they can come back."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._kept: deque[FeedBatch] = deque(maxlen=KEPT_BATCHES)
        self._listeners: dict[Deliver, None] = {}  # in the order in which they came
        self._labels: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._begun = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def position(self) -> str:
        """The cursor at which the feed stands. Raises Unavailable."""
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())
        try:
            async with asyncio.timeout(BEGIN_S):
                _ = await self._begun.wait()
        except TimeoutError:
            raise Unavailable("events cannot be followed now: Redis does not answer; try again") from None
        return self._kept[-1].cursor

    async def attach(self, after: str, deliver: Deliver) -> None:
        """Hand everything behind the cursor to `deliver`, which must not wait, until `detach`.

        Answers once caught up. Raises InvalidOption for a cursor that is none, Unavailable.
        """
        missed = self._since(after)
        if missed is None:
            missed = await self._catch_up(after, deliver)
        for batch in missed:
            deliver(batch)
        self._listeners[deliver] = None

    def detach(self, deliver: Deliver) -> None:
        """Deliver nothing more."""
        _ = self._listeners.pop(deliver, None)

    def labels(self, event: EventView) -> tuple[str, str]:
        """Name and queue of an event's task: its own words, or what earlier events said; else empty."""
        name, queue = event.detail.get("name"), event.detail.get("queue")
        if isinstance(name, str) and isinstance(queue, str):
            if event.task_id is not None:
                self._labels[event.task_id] = (name, queue)
                if len(self._labels) > KNOWN_TASKS:
                    _ = self._labels.popitem(last=False)
            return name, queue
        return self._labels.get(event.task_id or "", ("", ""))

    async def close(self) -> None:
        """Stop following."""
        self._listeners.clear()
        if self._following is not None:
            _ = self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following

    def _since(self, cursor: str) -> list[FeedBatch] | None:
        """What came behind the cursor; None when it is not among the kept ones."""
        behind: list[FeedBatch] = []
        for batch in reversed(self._kept):
            if batch.cursor == cursor:
                return behind[::-1]
            behind.append(batch)
        return None

    async def _catch_up(self, after: str, deliver: Deliver) -> list[FeedBatch]:
        """Read alone, until the cursor is one that the common feed has; answers what lies between."""
        _ = await self.position()
        async with aclosing(self._reader.follow(after=after)) as feed:
            async for batch in feed:
                deliver(batch)
                missed = self._since(batch.cursor)
                if missed is not None:
                    return missed
        raise Unavailable("the feed ended; subscribe again")

    async def _follow(self) -> None:
        while True:
            after = self._kept[-1].cursor if self._kept else None
            try:
                await self._take(self._reader.follow(after=after))
            except (TaskqError, OSError) as error:
                _log.warning("the feed of events broke: %s", error)
            await asyncio.sleep(PAUSE_S)

    async def _take(self, feed: AsyncGenerator[FeedBatch]) -> None:
        async with aclosing(feed):
            async for batch in feed:
                self._keep(batch)
                for deliver in list(self._listeners):
                    deliver(batch)

    def _keep(self, batch: FeedBatch) -> None:
        """A heartbeat without news needs no place of its own, if its cursor is there already."""
        for event in batch.events:
            _ = self.labels(event)
        if batch.events or batch.missed or not self._kept or self._kept[-1].cursor != batch.cursor:
            self._kept.append(batch)
        self._begun.set()
