"""The views carry exactly the names that front ends and other programs rely on."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
import pytest

from taskq_core.model.lifecycle import Kind, State
from taskq_core.read import views
from taskq_core.read.direct import DirectReader
from taskq_core.read.reader import Reader

NAMES = {
    "TaskView": "id name queue priority state payload metadata attempt max_attempts submitted_at due_at"
    " started_at ended_at wait_s run_s worker code_version unique_key progress result error trace_id",
    "ProgressView": "fraction message",
    "ErrorView": "type message traceback fingerprint",
    "AttemptView": "task_id number epoch outcome started_at ended_at wait_s run_s cpu_s peak_rss worker"
    " error",
    "EventView": "id task_id kind at attempt worker actor reason detail",
    "QueueView": "name paused depth oldest_s rate_in rate_out workers",
    "WorkerView": "id host pid started_at seen_at queues slots busy runners code_version state",
    "RunnerView": "pid rss tasks",
    "OverviewView": "verdict queues workers rates ledger relay",
    "VerdictView": "level text reasons",
    "LedgerView": "accepted live ended unexplained",
    "RelayView": "backlog lag_s",
    "TaskList": "tasks next as_of",
    "EventList": "events next as_of",
    "AttemptList": "attempts next as_of",
    "QueueList": "queues next as_of",
    "WorkerList": "workers next as_of",
    "CatalogList": "catalog next as_of",
}


@pytest.mark.parametrize("view", NAMES)
def test_the_names_are_the_agreed_ones(view: str) -> None:
    assert getattr(views, view).__struct_fields__ == tuple(NAMES[view].split())


def shown(view: Any) -> dict[str, Any]:
    return msgspec.json.decode(msgspec.json.encode(view))


def test_what_is_unknown_is_null_and_never_absent() -> None:
    task = shown(views.TaskView(id="i", state=State.QUEUED))
    assert set(task) == set(NAMES["TaskView"].split())
    assert task["result"] is None
    event = shown(views.EventView(id="0-1-2-3-4", kind=Kind.ACTION, at="2026-01-01T00:00:00.000Z"))
    assert event["task_id"] is None
    assert shown(views.TaskList(tasks=[])) == {"tasks": [], "next": None, "as_of": None}


def as_reader(direct: DirectReader) -> Reader:
    """The type checker holds the direct reader to the protocol."""
    return direct


def test_the_direct_reader_has_every_question_of_the_protocol() -> None:
    asked = [name for name in vars(Reader) if not name.startswith("_")]
    assert {
        "overview",
        "tasks",
        "task",
        "events",
        "attempts",
        "queues",
        "workers",
        "catalog",
        "follow",
    } <= set(asked)
    for name in asked:
        agreed = inspect.signature(getattr(Reader, name)).parameters
        assert list(inspect.signature(getattr(DirectReader, name)).parameters) == list(agreed)
