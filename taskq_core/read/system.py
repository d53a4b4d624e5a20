"""The system as a whole, out of one reading of Redis: queues, workers, overview."""

from __future__ import annotations

import asyncio

from taskq_core.broker.overview import QueueFacts, SystemFacts, WorkerFacts, read_system
from taskq_core.clock import format_ms
from taskq_core.errors import Unavailable
from taskq_core.read.sources import Sources
from taskq_core.read.stats import Flow, Sampler, buckets, flow_of, percentile_s, rates_of_events
from taskq_core.read.verdict import LOST, HealthFacts, verdict
from taskq_core.read.views import (
    LedgerView,
    OverviewView,
    QueueView,
    RatesView,
    RelayView,
    RunnerView,
    WorkerView,
)

__all__ = ["SystemReads", "queue_views", "relay_view", "worker_view", "worker_views"]

SILENT_MS = 20_000  # a worker that said nothing for so long is lost
_RATE_EVENTS = 2_000  # looked at for a rate when there is no earlier reading


class SystemReads:
    """Remembers the counters of the last seconds, for rates."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._sampler = Sampler()

    async def facts(self) -> SystemFacts:
        """One reading. Raises Unavailable."""
        sources = self._sources
        facts = await sources.live(read_system(sources.redis, sources.keys))
        self._sampler.add(facts.at, {queue.name: flow_of(queue.counters) for queue in facts.queues})
        return facts

    async def overview(self) -> OverviewView:
        """Never raises Unavailable: what cannot be known is None."""
        facts, postgres = await asyncio.gather(self._facts_or_none(), self._history_answers())
        if facts is None:
            return OverviewView(verdict=verdict(HealthFacts(redis=False, postgres=postgres)))
        workers = worker_views(facts)
        rates = await self._rates(facts)
        queues = queue_views(facts, workers, rates)
        relay = relay_view(facts)
        health = HealthFacts(
            redis=True,
            postgres=postgres,
            queues=queues,
            workers=workers,
            unexplained=facts.ledger.unexplained,
            relay_backlog=relay.backlog,
            relay_lag_s=relay.lag_s,
            memory_share=facts.memory_used / facts.memory_limit if facts.memory_limit else None,
        )
        return OverviewView(
            verdict=verdict(health),
            queues=queues,
            workers=workers,
            rates=_rates_view(facts, rates),
            ledger=LedgerView(
                accepted=facts.ledger.accepted,
                live=facts.ledger.live,
                ended=facts.ledger.ended,
                unexplained=facts.ledger.unexplained,
            ),
            relay=relay,
        )

    async def queues(self) -> list[QueueView]:
        """Every queue. Raises Unavailable."""
        facts = await self.facts()
        return queue_views(facts, worker_views(facts), await self._rates(facts))

    async def _facts_or_none(self) -> SystemFacts | None:
        try:
            return await self.facts()
        except Unavailable:
            return None

    async def _history_answers(self) -> bool:
        try:
            _ = await self._sources.committed()
        except Unavailable:
            return False
        return True

    async def _rates(self, facts: SystemFacts) -> dict[str, Flow]:
        """From an earlier reading, else from the newest events of the stream."""
        rates = self._sampler.rates()
        if rates is not None:
            return rates
        try:
            newest = await self._sources.newest(1, limit=_RATE_EVENTS)
        except Unavailable:
            return {}
        complete = len(newest.events) < _RATE_EVENTS
        return rates_of_events(newest.events, facts.at, complete=complete)


def worker_views(facts: SystemFacts) -> list[WorkerView]:
    """The workers; a silent one is shown as lost, whatever it said last."""
    return [worker_view(worker, facts.at) for worker in facts.workers]


def worker_view(worker: WorkerFacts, now_ms: int) -> WorkerView:
    """One worker."""
    silent = worker.seen_at is None or now_ms - worker.seen_at > SILENT_MS
    return WorkerView(
        id=worker.id,
        host=worker.host,
        pid=worker.pid,
        started_at=format_ms(worker.started_at),
        seen_at=format_ms(worker.seen_at),
        queues=worker.queues,
        slots=worker.slots,
        busy=worker.busy,
        runners=[RunnerView(pid=one.pid, rss=one.rss, tasks=one.tasks) for one in worker.runners],
        code_version=worker.code_version,
        state=LOST if silent else worker.state,
    )


def queue_views(facts: SystemFacts, workers: list[WorkerView], rates: dict[str, Flow]) -> list[QueueView]:
    """The queues, by name."""
    none = Flow(0.0, 0.0)
    return [_queue_view(queue, facts.at, workers, rates.get(queue.name, none)) for queue in facts.queues]


def _queue_view(queue: QueueFacts, now_ms: int, workers: list[WorkerView], rate: Flow) -> QueueView:
    oldest = None if queue.oldest_ms is None else max(0, now_ms - queue.oldest_ms) / 1000
    return QueueView(
        name=queue.name,
        paused=queue.paused,
        depth=queue.depth,
        oldest_s=oldest,
        rate_in=round(rate.came, 3),
        rate_out=round(rate.went, 3),
        workers=sum(queue.name in worker.queues and worker.state != LOST for worker in workers),
    )


def relay_view(facts: SystemFacts) -> RelayView:
    """How far the history is behind."""
    oldest = facts.relay.oldest_ms
    lag = 0.0 if oldest is None else max(0, facts.at - oldest) / 1000
    return RelayView(backlog=facts.relay.backlog, lag_s=lag)


def _rates_view(facts: SystemFacts, rates: dict[str, Flow]) -> RatesView:
    wait = sum((buckets(queue.counters, "wait") for queue in facts.queues), start=buckets({}, "wait"))
    run = sum((buckets(queue.counters, "run") for queue in facts.queues), start=buckets({}, "run"))
    return RatesView(
        rate_in=round(sum(rate.came for rate in rates.values()), 3),
        rate_out=round(sum(rate.went for rate in rates.values()), 3),
        wait_p50_s=percentile_s(wait, 0.5),
        wait_p95_s=percentile_s(wait, 0.95),
        run_p50_s=percentile_s(run, 0.5),
        run_p95_s=percentile_s(run, 0.95),
    )
