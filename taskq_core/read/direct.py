"""The reader that asks Redis and Postgres itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Self

import msgspec

from taskq_core.audit.history import History, Pool, open_pool
from taskq_core.broker.functions import Broker
from taskq_core.broker.overview import read_workers
from taskq_core.catalog import CatalogEntry, load
from taskq_core.errors import Unavailable
from taskq_core.model.ids import check_id
from taskq_core.read import single
from taskq_core.read.feed import Feed
from taskq_core.read.gauges import query_family, system_families
from taskq_core.read.listing import list_tasks, make_query
from taskq_core.read.metrics import MetricFamily, MetricsSnapshot, Sample
from taskq_core.read.reader import DEFAULT_LIMIT, check_at, check_limit
from taskq_core.read.sources import Sources
from taskq_core.read.system import SystemReads, worker_view
from taskq_core.read.views import (
    AttemptList,
    CatalogList,
    CatalogView,
    EventList,
    FeedBatch,
    OverviewView,
    QueueList,
    TaskList,
    TaskView,
    WorkerList,
)

__all__ = ["DirectReader"]


class DirectReader:
    """See `reader.Reader`. Make it with `connect`, or of a broker and a pool that belong to someone else."""

    def __init__(self, broker: Broker, pool: Pool, *, owns: bool = False) -> None:
        self._broker = broker
        self._pool = pool
        self._owns = owns
        self._sources = Sources(broker, History(pool))
        self._system = SystemReads(self._sources)

    @classmethod
    async def connect(cls, redis_url: str, database_url: str) -> Self:
        """A reader with connections of its own; Postgres may be away. Raises as `Broker.connect`."""
        broker = await Broker.connect(redis_url, name="taskq-reader", patience=2.0)
        try:
            pool = await open_pool(database_url)
        except BaseException:
            await broker.close()
            raise
        return cls(broker, pool, owns=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections that `connect` opened."""
        if self._owns:
            await self._pool.close(timeout=1.0)
            await self._broker.close()

    async def overview(self, *, at: str | None = None) -> OverviewView:
        """The whole system."""
        check_at(at)
        return await self._system.overview()

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
        check_at(at)
        query = make_query(state, queue, name, check_limit(limit), cursor)
        return await list_tasks(self._sources, query)

    async def task(self, task_id: str, *, at: str | None = None) -> TaskView:
        """One task."""
        check_at(at)
        return await single.one_task(self._sources, task_id)

    async def events(
        self,
        task_id: str | None = None,
        *,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        at: str | None = None,
    ) -> EventList:
        """A page of events: of one task in order, of all newest first."""
        check_at(at)
        if task_id is None:
            return await single.all_events(self._sources, check_limit(limit), cursor)
        return await single.task_events(self._sources, task_id, check_limit(limit), cursor)

    async def attempts(self, task_id: str, *, at: str | None = None) -> AttemptList:
        """Every attempt of one task."""
        check_at(at)
        return await single.task_attempts(self._sources, task_id)

    async def queues(self, *, at: str | None = None) -> QueueList:
        """Every queue."""
        check_at(at)
        return QueueList(queues=await self._system.queues())

    async def workers(self, *, at: str | None = None) -> WorkerList:
        """Every worker that was seen lately."""
        check_at(at)
        workers, now_ms = await self._sources.live(read_workers(self._sources.redis))
        return WorkerList(workers=[worker_view(worker, now_ms) for worker in workers])

    async def catalog(self, *, at: str | None = None) -> CatalogList:
        """Every registered task."""
        check_at(at)
        catalog = await self._sources.live(load(self._sources.redis))
        return CatalogList(catalog=[_catalog_view(entry) for entry in catalog.entries])

    def follow(self, *, after: str | None = None, task_id: str | None = None) -> AsyncGenerator[FeedBatch]:
        """What happens from now on, or behind a cursor."""
        return Feed(self._sources, after=after, task_id=None if task_id is None else check_id(task_id)).run()

    async def metrics(self) -> MetricsSnapshot:
        """What /metrics tells of the whole system."""
        try:
            facts = await self._system.facts()
        except Unavailable:
            facts = None
        families = system_families(facts)
        families += [query_family(self._sources.query_times), self._pool_family()]
        return MetricsSnapshot(facts.at if facts else 0, families)

    def _pool_family(self) -> MetricFamily:
        stats = self._pool.get_stats()
        size, idle = stats.get("pool_size", 0), stats.get("pool_available", 0)
        samples = [Sample({"state": "idle"}, idle), Sample({"state": "used"}, size - idle)]
        return MetricFamily("taskq_postgres_pool_connections", "gauge", "Connections to Postgres.", samples)


def _catalog_view(entry: CatalogEntry) -> CatalogView:
    newest = sorted(entry.versions.items(), key=lambda item: item[1].seen_at, reverse=True)
    return CatalogView(
        name=entry.name,
        queue=entry.queue,
        kind=entry.kind,
        schema=entry.schema,
        retry=msgspec.structs.asdict(entry.retry),
        timeout=entry.timeout,
        doc=entry.doc,
        priority=str(entry.priority),
        result_ttl=entry.result_ttl,
        versions=[version for version, _ in newest],
    )
