"""A reader that connects at the first question, so that `app.reader()` needs no await."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from taskq_core.read.metrics import MetricsSnapshot
from taskq_core.read.reader import DEFAULT_LIMIT, Reader
from taskq_core.read.views import (
    AttemptList,
    CatalogList,
    EventList,
    FeedBatch,
    OverviewView,
    QueueList,
    TaskList,
    TaskView,
    WorkerList,
)

__all__ = ["LazyReader"]


class LazyReader:
    """See `read.reader.Reader`: every method connects if need be, then asks the real one."""

    def __init__(self, connect: Callable[[], Awaitable[Reader]]) -> None:
        self._connect = connect
        self._reader: Reader | None = None
        self._connecting = asyncio.Lock()

    async def _real(self) -> Reader:
        async with self._connecting:
            if self._reader is None:
                self._reader = await self._connect()
            return self._reader

    async def overview(self, *, at: str | None = None) -> OverviewView:
        """The whole system."""
        return await (await self._real()).overview(at=at)

    async def tasks(
        self,
        *,
        state: str | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        at: str | None = None,
    ) -> TaskList:
        """A page of tasks, most recent first."""
        reader = await self._real()
        return await reader.tasks(state=state, queue=queue, name=name, limit=limit, cursor=cursor, at=at)

    async def task(self, task_id: str, *, at: str | None = None) -> TaskView:
        """One task."""
        return await (await self._real()).task(task_id, at=at)

    async def events(
        self,
        task_id: str | None = None,
        *,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        at: str | None = None,
    ) -> EventList:
        """A page of what happened."""
        return await (await self._real()).events(task_id, limit=limit, cursor=cursor, at=at)

    async def attempts(self, task_id: str, *, at: str | None = None) -> AttemptList:
        """Every attempt of one task."""
        return await (await self._real()).attempts(task_id, at=at)

    async def queues(self, *, at: str | None = None) -> QueueList:
        """Every queue."""
        return await (await self._real()).queues(at=at)

    async def workers(self, *, at: str | None = None) -> WorkerList:
        """Every worker that was seen lately."""
        return await (await self._real()).workers(at=at)

    async def catalog(self, *, at: str | None = None) -> CatalogList:
        """Every registered task."""
        return await (await self._real()).catalog(at=at)

    async def follow(
        self, *, after: str | None = None, task_id: str | None = None
    ) -> AsyncGenerator[FeedBatch]:
        """What happens from now on, or behind the cursor `after`."""
        async with aclosing((await self._real()).follow(after=after, task_id=task_id)) as feed:
            async for batch in feed:
                yield batch

    async def metrics(self) -> MetricsSnapshot:
        """What /metrics tells about the system as a whole."""
        return await (await self._real()).metrics()

    async def close(self) -> None:
        """Disconnect; a later question connects again."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()
