"""The fold: events in any order and any number of pieces make the same rows."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from taskq_core.audit.batch import pack_one, unpack
from taskq_core.audit.fold import fold
from taskq_core.model.event import Detail, Event, decode_batch
from taskq_core.model.ids import new_id
from taskq_core.model.lifecycle import ENDED, Kind, State
from tests.support.events import OPTIONS, PAYLOAD, START_MS, entry, one_life, placed, submitted, walks

CHOICES = st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=25), min_size=1, max_size=4)


@given(CHOICES, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_rows(choices: list[list[int]], chance: random.Random) -> None:
    _, entries = walks(choices)
    events = placed(entries)
    shuffled = list(events)
    chance.shuffle(shuffled)
    straight, mixed = fold(events), fold(shuffled)
    assert mixed.tasks == straight.tasks
    assert mixed.attempts == straight.attempts
    assert mixed.payloads == straight.payloads


@given(CHOICES)
def test_the_rows_agree_with_the_lifecycle(choices: list[list[int]]) -> None:
    tasks, entries = walks(choices)
    rows = fold(placed(entries))
    for task in tasks:
        row = rows.tasks[task.id]
        assert row.state is task.state
        assert row.attempt == task.attempt
        assert row.lives == task.lives
        assert (row.ended_at is not None) == (task.state in ENDED)
        assert row.start_epoch == task.epoch
        assert sum(1 for key in rows.attempts if key[0] == task.id) == task.epoch
        open_runs = [run for run in rows.attempts.values() if run.task_id == task.id and run.ended_at is None]
        assert len(open_runs) == (task.state is State.RUNNING)


def test_a_whole_life() -> None:
    task_id = new_id(START_MS)
    rows = fold(placed(one_life(task_id, START_MS, 1)))
    task, run, kept = rows.tasks[task_id], rows.attempts[task_id, 1], rows.payloads[task_id]
    assert (task.state, task.attempt, task.max_attempts) == (State.SUCCEEDED, 1, 3)
    assert (task.submitted_at, task.started_at, task.ended_at) == (START_MS, START_MS + 1, START_MS + 2)
    assert (task.wait_s, task.run_s, task.worker, task.code_version) == (0.005, 0.0125, "w1", "v1")
    assert (task.name, task.queue, task.priority, task.unique_key) == (
        "image.resize",
        "images",
        "normal",
        "u",
    )
    assert (run.number, run.outcome, run.counted, run.cpu_s, run.peak_rss) == (
        1,
        "succeeded",
        True,
        0.003,
        1000,
    )
    assert (kept.raw, kept.options, kept.digest) == (PAYLOAD, OPTIONS, "d1")


def test_a_task_without_its_submission_is_kept_all_the_same() -> None:
    task_id = new_id(START_MS)
    rows = fold(placed(one_life(task_id, START_MS, 1)[1:]))
    task = rows.tasks[task_id]
    assert (task.state, task.name, task.queue, task.submitted_at) == (
        State.SUCCEEDED,
        "image.resize",
        "images",
        None,
    )
    assert not rows.payloads


def test_what_changes_nothing_makes_no_task() -> None:
    task_id = new_id(START_MS)
    neutral = [
        Event(Kind.FENCED, task_id, 0, 0, Detail(epochs="1:1-0")),
        Event(Kind.REDELIVERED, task_id, 0, 0, Detail(queue="images", reason="no free slot")),
        Event(Kind.ACTION, "", 0, 0, Detail(action="pause", arguments='{"queue": "images"}', actor="me")),
    ]
    rows = fold(placed([entry(START_MS, 0, 1, neutral)]))
    assert not rows.tasks
    assert [action.action for action in rows.actions] == ["pause"]


def test_a_reclaimed_run_names_its_owner() -> None:
    task_id = new_id(START_MS)
    lost = Detail(outcome="lease_expired", run_ms=30_000, error='{"type": "LeaseExpired"}', owner="w7")
    entries = [
        entry(START_MS, 0, 1, [submitted(task_id)], ""),
        entry(START_MS + 1, 0, 2, [Event(Kind.DEAD, task_id, 1, 1, lost)], ""),
    ]
    run = fold(placed(entries)).attempts[task_id, 1]
    assert (run.worker, run.outcome, run.started_at) == ("w7", "lease_expired", None)


def test_what_is_no_batch_is_broken_and_its_neighbours_are_not() -> None:
    good = one_life(new_id(START_MS), START_MS, 1)
    foreign = [
        (START_MS + 10, 0, b"not ours"),
        (START_MS + 11, 0, b""),
        (START_MS + 12, 0, None),
        (START_MS + 13, 0, msgspec.msgpack.encode([99, 5, 1, "", []])),
        (START_MS + 14, 0, msgspec.msgpack.encode([1, 5, 1, "", [["unheard-of", "", 0, 0, {}]]])),
    ]
    batch = unpack([*good, *foreign], 1)
    assert len(batch.events) == 3
    assert [one.place[1] - START_MS for one in batch.broken] == [10, 11, 12, 13, 14]
    assert batch.broken[0].raw == b"not ours"
    assert len(batch.ids) == 8


def test_a_quarantined_event_can_be_read_again() -> None:
    (event, *_) = placed(one_life(new_id(START_MS), START_MS, 7))
    again = decode_batch(pack_one(event))
    assert (again.n, again.events) == (7, [event.event])
