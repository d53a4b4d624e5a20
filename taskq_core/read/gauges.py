"""The metric families of the whole system, made from one reading of Redis. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from taskq_core.broker.overview import QueueFacts, SystemFacts
from taskq_core.read.metrics import MetricFamily, Sample
from taskq_core.read.sources import QUERY_BOUNDS_S, QueryTimes
from taskq_core.read.stats import buckets
from taskq_core.read.system import relay_view, worker_views
from taskq_core.read.verdict import LOST

__all__ = ["query_family", "system_families"]

MAX_NAMES = 200  # task names of one queue that get a line of their own; the rest is `other`
OTHER = "other"
_STEPS = 22  # bounds 1, 3, 7 … 2^22 - 1 ms (70 min): every fourth bucket ends at one


def system_families(facts: SystemFacts | None) -> list[MetricFamily]:
    """Every family; without samples when Redis is away, so that nothing is told that is not known."""
    queues = facts.queues if facts else []
    return [
        _counter("taskq_tasks_submitted", "Tasks accepted.", queues, "submitted", ("queue", "name")),
        _counter(
            "taskq_tasks_finished", "Tasks that ended, by state.", queues, "ended", ("queue", "name", "state")
        ),
        _counter(
            "taskq_attempts",
            "Attempts that ended, by outcome.",
            queues,
            "attempt",
            ("queue", "name", "outcome"),
        ),
        _histogram(
            "taskq_task_wait_seconds", "From being ready to the start.", queues, "wait", facts is not None
        ),
        _histogram("taskq_task_run_seconds", "Run time of attempts.", queues, "run", facts is not None),
        MetricFamily(
            "taskq_queue_depth",
            "gauge",
            "Tasks in a queue, by state.",
            [Sample({"queue": q.name, "state": state}, n) for q in queues for state, n in q.depth.items()],
        ),
        MetricFamily(
            "taskq_queue_oldest_seconds",
            "gauge",
            "Age of the oldest task that waits to be taken.",
            [Sample({"queue": queue.name}, _age_s(queue, facts)) for queue in queues],
        ),
        *_gauges(facts),
    ]


def _age_s(queue: QueueFacts, facts: SystemFacts | None) -> float:
    if facts is None or queue.oldest_ms is None:
        return 0
    return max(0, facts.at - queue.oldest_ms) / 1000


def _loop_lag_s(facts: SystemFacts) -> float:
    lags = [runner.loop_lag_s or 0.0 for worker in facts.workers for runner in worker.runners]
    return max(lags, default=0.0)


def _gauges(facts: SystemFacts | None) -> list[MetricFamily]:
    workers = [worker for worker in worker_views(facts) if worker.state != LOST] if facts else []
    relay = relay_view(facts) if facts else None
    values = {
        "taskq_workers": ("Live workers.", len(workers)),
        "taskq_worker_busy_slots": ("Slots in which a task runs.", sum(w.busy or 0 for w in workers)),
        "taskq_worker_loop_lag_seconds": (
            "How late the event loop of the latest runner was at its last tick.",
            _loop_lag_s(facts) if facts else 0,
        ),
        "taskq_relay_backlog_events": (
            "Events not committed to Postgres yet.",
            (relay and relay.backlog) or 0,
        ),
        "taskq_relay_lag_seconds": ("Age of the oldest of them.", (relay and relay.lag_s) or 0),
        "taskq_redis_memory_bytes": ("Memory that Redis uses.", facts.memory_used if facts else 0),
        "taskq_stream_length": ("Entries of the event stream.", facts.relay.stream_length if facts else 0),
        "taskq_ledger_unexplained": (
            "Accepted tasks that are neither alive nor ended.",
            facts.ledger.unexplained if facts else 0,
        ),
    }
    return [
        MetricFamily(name, "gauge", text, [Sample({}, value)] if facts else [])
        for name, (text, value) in values.items()
    ]


def _counter(
    name: str, text: str, queues: Iterable[QueueFacts], prefix: str, labels: tuple[str, ...]
) -> MetricFamily:
    """One line per queue, task name and, where the counter has one, its last word."""
    samples: list[Sample] = []
    for queue in queues:
        shown = _shown_names(queue.counters, prefix)
        sums: Counter[tuple[str, ...]] = Counter()
        for field, n in queue.counters.items():
            word, *rest = field.split(":")
            if word == prefix and len(rest) == len(labels) - 1:
                task, *last = rest
                sums[queue.name, task if task in shown else OTHER, *last] += n
        samples += [
            Sample(dict(zip(labels, values, strict=True)), n, "_total") for values, n in sorted(sums.items())
        ]
    return MetricFamily(name, "counter", text, samples)


def _shown_names(counters: Mapping[str, int], prefix: str) -> set[str]:
    """The busiest task names of a queue."""
    sums: Counter[str] = Counter()
    for field, n in counters.items():
        word, _, rest = field.partition(":")
        if word == prefix:
            sums[rest.partition(":")[0]] += n
    return {name for name, _ in sums.most_common(MAX_NAMES)}


def _histogram(name: str, text: str, queues: Iterable[QueueFacts], what: str, known: bool) -> MetricFamily:  # noqa: FBT001
    counts: Counter[int] = Counter()
    sum_ms = 0
    for queue in queues:
        counts += buckets(queue.counters, what)
        sum_ms += queue.counters.get(f"{what}_sum", 0)
    if not known:
        return MetricFamily(name, "histogram", text, [])
    samples = [
        Sample(
            {"le": f"{(2**step - 1) / 1000:g}"},
            sum(n for bucket, n in counts.items() if bucket < 4 * step),
            "_bucket",
        )
        for step in range(1, _STEPS + 1)
    ]
    return MetricFamily(name, "histogram", text, [*samples, *_ends({}, counts.total(), sum_ms / 1000)])


def _ends(labels: dict[str, str], count: int, sum_s: float) -> list[Sample]:
    return [
        Sample({**labels, "le": "+Inf"}, count, "_bucket"),
        Sample(labels, sum_s, "_sum"),
        Sample(labels, count, "_count"),
    ]


def query_family(times: Mapping[str, QueryTimes]) -> MetricFamily:
    """How long the history took to answer this reader."""
    samples: list[Sample] = []
    for query, told in sorted(times.items()):
        labels = {"query": query}
        seen = 0
        for bound, n in zip(QUERY_BOUNDS_S, told.counts, strict=False):
            seen += n
            samples.append(Sample({**labels, "le": f"{bound:g}"}, seen, "_bucket"))
        samples += _ends(labels, sum(told.counts), told.sum_s)
    return MetricFamily("taskq_postgres_query_seconds", "histogram", "Answers of the history.", samples)
