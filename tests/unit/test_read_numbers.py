"""Rates, percentiles, the verdict, cursors and the metrics text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq_core.broker.counts import LedgerFacts
from taskq_core.broker.overview import QueueFacts, RelayFacts, SystemFacts
from taskq_core.errors import InvalidOption
from taskq_core.read.cursor import decode_cursor, encode_cursor
from taskq_core.read.gauges import system_families
from taskq_core.read.metrics import MetricFamily, Sample, render
from taskq_core.read.stats import Flow, Sampler, buckets, lower_ms, percentile_s, upper_ms
from taskq_core.read.verdict import HealthFacts, verdict
from taskq_core.read.views import QueueView, WorkerView
from tests.support.names import SYSTEM_METRICS


@given(st.floats(0, 1e9))
def test_a_duration_lies_in_its_bucket(ms: float) -> None:
    bucket = math.floor(4 * math.log2(1 + ms))
    assert lower_ms(bucket) <= ms * (1 + 1e-9) + 1e-9
    assert ms * (1 - 1e-9) - 1e-9 <= upper_ms(bucket)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_right_to_its_bucket(durations: list[float], share: float) -> None:
    counters: dict[str, int] = {}
    for ms in durations:
        field = f"run:{math.floor(4 * math.log2(1 + ms))}"
        counters[field] = counters.get(field, 0) + 1
    found = percentile_s(buckets(counters, "run"), share)
    exact = sorted(durations)[math.ceil(share * len(durations) - 1e-9) - 1]
    bucket = math.floor(4 * math.log2(1 + exact))
    assert found is not None
    assert lower_ms(bucket) - 0.01 <= found * 1000 <= upper_ms(bucket) + 0.01


def test_no_percentile_of_nothing() -> None:
    assert percentile_s({}, 0.5) is None


def test_a_rate_is_what_came_between_two_readings() -> None:
    sampler = Sampler()
    assert sampler.rates() is None
    sampler.add(1_000, {"a": Flow(10, 5)})
    assert sampler.rates() is None
    sampler.add(1_500, {"a": Flow(20, 5)})
    assert sampler.rates() is None
    sampler.add(6_000, {"a": Flow(60, 15), "b": Flow(5, 0)})
    assert sampler.rates() == {"a": Flow(10, 2), "b": Flow(1, 0)}


def test_a_counter_that_fell_begins_anew() -> None:
    sampler = Sampler()
    sampler.add(1_000, {"a": Flow(10, 5)})
    sampler.add(3_000, {"a": Flow(2, 0)})
    assert sampler.rates() is None


def test_old_readings_are_forgotten() -> None:
    sampler = Sampler()
    for second in range(60):
        sampler.add(second * 1000, {"a": Flow(second * (2 if second > 40 else 1), 0)})
    rates = sampler.rates()
    assert rates is not None
    assert rates["a"].came == 2


def health(**told: object) -> HealthFacts:
    return HealthFacts(**({"redis": True, "postgres": True} | told))  # pyright: ignore[reportArgumentType]


WAITING = QueueView(name="images", depth={"queued": 3, "running": 0, "parked": 0})
WORKER = WorkerView(id="w", queues=["images"], state="running")


@pytest.mark.parametrize(
    ("facts", "level", "word"),
    [
        (health(), "ok", "nothing waits"),
        (health(redis=False), "down", "Redis"),
        (health(redis=False, postgres=False), "down", "Redis"),
        (health(postgres=False), "degraded", "Postgres"),
        (health(queues=[WAITING], workers=[]), "degraded", "images"),
        (health(unexplained=2), "degraded", "2 tasks"),
        (health(relay_lag_s=90.0, relay_backlog=5), "degraded", "90 s"),
        (health(memory_share=0.7), "degraded", "70%"),
        (health(workers=[WorkerView(id="w", state="lost")]), "degraded", "1 worker"),
    ],
)
def test_the_verdict_names_what_is_wrong(facts: HealthFacts, level: str, word: str) -> None:
    said = verdict(facts)
    assert said.level == level
    assert word in said.text
    assert (said.level == "ok") == (not said.reasons)


def test_a_queue_that_is_served_or_paused_is_well() -> None:
    served = QueueView(name="images", depth={"queued": 3}, workers=1)
    paused = QueueView(name="web", depth={"queued": 3}, paused=True)
    assert verdict(health(queues=[served, paused], workers=[WORKER])).level == "ok"


def test_a_cursor_comes_back_and_only_to_its_list() -> None:
    cursor = encode_cursor("tasks", "abc", 5)
    assert decode_cursor("tasks", cursor, tuple[str, int]) == ("abc", 5)
    for kind, text, form in (
        ("events", cursor, tuple[str, int]),
        ("tasks", cursor, tuple[int, int]),
        ("tasks", "?", tuple[str]),
        ("tasks", "é" * 5, tuple[str]),
        ("tasks", "A" * 10_000, tuple[str]),
        ("tasks", "", tuple[str]),
    ):
        with pytest.raises(InvalidOption):
            decode_cursor(kind, text, form)


def test_labels_are_escaped() -> None:
    family = MetricFamily("m", "gauge", "Text.", [Sample({"name": 'a"b\\c\n'}, 1.5)])
    assert render([family]) == '# HELP m Text.\n# TYPE m gauge\nm{name="a\\"b\\\\c\\n"} 1.5\n'


def facts(counters: dict[str, int]) -> SystemFacts:
    queue = QueueFacts(name="q", paused=False, depth={"queued": 0}, oldest_ms=None, counters=counters)
    return SystemFacts(
        at=1,
        queues=[queue],
        ledger=LedgerFacts(accepted=3, live=1, ended=2),
        relay=RelayFacts(head=0, stream_length=0, backlog=0, oldest_ms=None),
        workers=[],
        memory_used=7,
        memory_limit=0,
    )


def test_histograms_count_upwards() -> None:
    text = render(system_families(facts({"wait:0": 2, "wait:4": 1, "wait:40": 1, "wait_sum": 1500})))
    assert 'taskq_task_wait_seconds_bucket{le="0.001"} 2\n' in text
    assert 'taskq_task_wait_seconds_bucket{le="0.003"} 3\n' in text
    assert 'taskq_task_wait_seconds_bucket{le="+Inf"} 4\n' in text
    assert "taskq_task_wait_seconds_sum 1.5\n" in text
    assert "taskq_task_wait_seconds_count 4\n" in text


def test_too_many_names_share_a_line() -> None:
    text = render(system_families(facts({f"submitted:n{i}": 2 if i else 1 for i in range(250)})))
    assert 'taskq_tasks_submitted_total{queue="q",name="other"} 99\n' in text
    assert text.count("taskq_tasks_submitted_total{") == 201


def test_every_name_is_there_without_redis() -> None:
    text = render(system_families(None))
    for name in SYSTEM_METRICS:
        assert f"# TYPE {name} " in text
