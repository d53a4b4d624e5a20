"""Events become facts: every kind, what the table forbids, and what was known before."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskq_core.model.event import Detail, Event, EventId
from taskq_core.model.ids import new_id
from taskq_core.model.lifecycle import Kind, Outcome, State
from taskq_core.model.task import Options, pack_options
from taskq_core.read.facts import PlacedEvent, TaskFacts, attempt_view, event_view, task_view
from taskq_core.read.projection import Projection

START = 1_790_000_000_000
ID = new_id(START)
ERROR = '{"type": "ValueError", "message": "no", "fingerprint": "f"}'


class Story:
    """Events of one task, a second apart."""

    def __init__(self) -> None:
        self.events: list[PlacedEvent] = []

    def add(self, kind: Kind, attempt: int = 0, epoch: int = 0, **detail: Any) -> Story:
        at = START + 1000 * len(self.events)
        said = {"name": "image.resize", "queue": "images"} | detail
        event = Event(kind, ID, attempt, epoch, msgspec.convert(said, Detail))
        place = EventId(0, 1, at, 0, 0)
        self.events.append(PlacedEvent(place, len(self.events) + 1, at, "r1", event))
        return self

    def submitted(self, **detail: Any) -> Story:
        said: dict[str, Any] = {
            "priority": "high",
            "payload": '{"a": 1e2}',
            "options": pack_options(Options(max_attempts=3)),
        }
        return self.add(Kind.SUBMITTED, **(said | detail))

    def started(self, attempt: int = 1, epoch: int = 1) -> Story:
        return self.add(Kind.STARTED, attempt, epoch, wait_ms=5.0, code_version="v1")

    def told(self) -> Projection:
        fold = Projection()
        fold.apply_all(self.events)
        return fold

    def task(self) -> TaskFacts:
        fold = self.told()
        assert not fold.illegal
        return fold.tasks[ID]


def test_a_submission_tells_what_was_asked() -> None:
    task = task_view(Story().submitted(metadata='{"user": 42}', unique_key="k").task())
    assert (task.state, task.priority, task.max_attempts) == (State.QUEUED, "high", 3)
    assert task.payload == {"a": 100.0}
    assert task.metadata == {"user": 42}
    assert task.unique_key == "k"
    assert task.submitted_at == "2026-09-21T14:13:20.000Z"
    assert task.started_at is None
    assert task.result is None


def test_a_due_time_makes_it_scheduled() -> None:
    task = task_view(Story().submitted(due_ms=START + 60_000).task())
    assert task.state == State.SCHEDULED
    assert task.due_at == "2026-09-21T14:14:20.000Z"


def test_an_attempt_is_opened_and_closed() -> None:
    end = (
        Story()
        .submitted()
        .started()
        .add(Kind.SUCCEEDED, 1, 1, run_ms=12.5, result="[1]", cpu_ms=3.0, peak_rss=9)
    )
    task = task_view(end.task())
    assert (task.state, task.result, task.run_s, task.wait_s) == (State.SUCCEEDED, [1], 0.0125, 0.005)
    assert (task.worker, task.code_version) == ("r1", "v1")
    (attempt,) = (attempt_view(one) for one in end.told().attempts.values())
    assert attempt.outcome == Outcome.SUCCEEDED
    assert (attempt.number, attempt.epoch, attempt.cpu_s, attempt.peak_rss) == (1, 1, 0.003, 9)
    assert attempt.ended_at == task.ended_at == "2026-09-21T14:13:22.000Z"


def test_a_shared_crash_costs_no_attempt() -> None:
    story = Story().submitted().started()
    story.add(
        Kind.RETRYING, 1, 1, outcome="crashed", error=ERROR, due_ms=START + 9000, run_ms=1.0, counted=False
    )
    assert story.task().attempt == 0
    assert next(iter(story.told().attempts.values())).outcome == Outcome.CRASHED


@pytest.mark.parametrize("kind", [Kind.RELEASED, Kind.PARKED])
def test_what_is_given_back_does_not_count(kind: Kind) -> None:
    task = Story().submitted().started().add(kind, 1, 1, reason="drain").task()
    assert task.attempt == 0
    assert task.state is (State.QUEUED if kind is Kind.RELEASED else State.PARKED)


def test_a_new_life_begins_clean() -> None:
    story = Story().submitted().started().add(Kind.DEAD, 1, 1, outcome="failed", error=ERROR, run_ms=1.0)
    assert task_view(story.task()).error is not None
    task = task_view(story.add(Kind.RETRIED, 0, 1, payload='{"b": 2}', actor="me").task())
    assert (task.state, task.attempt, task.payload) == (State.QUEUED, 0, {"b": 2})
    assert (task.error, task.ended_at, task.started_at, task.run_s, task.worker) == (None,) * 5


def test_the_owner_is_the_worker_when_another_one_reports() -> None:
    story = Story().submitted().started().add(Kind.RETRYING, 1, 1, outcome="crashed", error=ERROR, owner="r9")
    assert event_view(story.events[-1]).worker == "r9"


def test_what_the_table_forbids_is_kept_apart_and_changes_nothing() -> None:
    story = Story().submitted().started().add(Kind.PROMOTED)
    fold = story.told()
    assert fold.tasks[ID].state is State.RUNNING
    assert len(fold.illegal) == 1
    assert "promoted" in fold.illegal[0]


def test_neutral_events_change_nothing() -> None:
    story = Story().submitted().add(Kind.FENCED, 0, 0, epochs="1:0-1").add(Kind.ACTION, action="cancel")
    assert story.task() == Story().submitted().task()


def test_what_was_seeded_is_not_applied_again() -> None:
    story = Story().submitted().started()
    seeded = story.task()
    fold = Projection()
    fold.seed([seeded])
    fold.apply_all(story.add(Kind.PROGRESSED, 1, 1, fraction=0.5).events)
    assert not fold.illegal
    assert fold.tasks[ID].fraction == 0.5


def test_a_task_without_its_beginning_is_unknown() -> None:
    fold = Projection()
    fold.apply_all(Story().started().events)
    assert fold.unknown == {ID}
    assert not fold.tasks


def test_secrets_are_not_shown() -> None:
    task = task_view(Story().submitted(payload='{"password": "x", "url": "http://u:p@h/"}').task())
    assert task.payload == {"password": "[redacted]", "url": "http://[redacted]@h/"}


def test_an_event_tells_durations_in_seconds_and_no_bodies() -> None:
    story = Story().submitted(due_ms=START, trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    first = event_view(story.events[0])
    assert first.detail == {
        "name": "image.resize",
        "queue": "images",
        "priority": "high",
        "due_at": "2026-09-21T14:13:20.000Z",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    story.started().add(Kind.RETRYING, 1, 1, outcome="failed", error=ERROR, run_ms=20.0, counted=False)
    last = event_view(story.events[-1])
    assert last.detail["run_s"] == 0.02
    assert last.detail["counted"] is False
    assert last.detail["error"]["type"] == "ValueError"
    assert msgspec.json.encode(last)
