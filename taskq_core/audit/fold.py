"""What events amount to: one row per task and per attempt. Pure.

Events may come in any order and in any pieces; the rows are the same. Each group of fields has a key by
which its newest value is known: the place in the stream for the state, an epoch for what an attempt tells,
the order number for the rest; times are the least or the largest. `sql/queries/store.sql` merges rows with
rows by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import msgspec

from taskq_core.audit.batch import Placed
from taskq_core.model.lifecycle import ENDED, MOVES, Kind, Outcome, State
from taskq_core.model.task import unpack_options

__all__ = ["ActionFold", "AttemptFold", "Folded", "PayloadFold", "TaskFold", "fold"]

NOWHERE = (-1, -1, -1, -1)

# The state after each kind. A submission with a due time is scheduled instead; `redelivered` changes nothing.
_AFTER = {kind: min(after) for (_, kind), after in MOVES.items()}


class TaskFold(msgspec.Struct, gc=False):
    """What some events say about one task. None or the lowest key: they say nothing."""

    id: str
    place: tuple[int, int, int, int] = NOWHERE  # of the newest event that set the state
    state: State = State.QUEUED
    attempt: int = 0
    ended_at: int | None = None
    name: str | None = None
    queue: str | None = None
    max_attempts: int | None = None
    submitted_at: int | None = None
    unique_key: str | None = None
    trace_id: str | None = None
    metadata: str | None = None
    lives: int = 1
    life_epoch: int = 0  # attempts of the newest life have a larger epoch
    payload_order: int = -1
    payload: str | None = None
    priority_order: int = -1
    priority: str | None = None
    due_order: int = -1
    due_at: int | None = None
    progress_order: int = -1
    progress_epoch: int = 0
    fraction: float | None = None
    message: str | None = None
    started_at: int | None = None
    start_epoch: int = 0
    worker: str | None = None
    code_version: str | None = None
    wait_s: float | None = None
    end_epoch: int = 0
    run_s: float | None = None
    result: str | None = None
    error_epoch: int = 0
    error: str | None = None


class AttemptFold(msgspec.Struct, gc=False):
    """What some events say about one run."""

    task_id: str
    epoch: int
    number: int = 0
    started_at: int | None = None
    ended_at: int | None = None
    outcome: str | None = None
    worker: str | None = None
    wait_s: float | None = None
    run_s: float | None = None
    cpu_s: float | None = None
    peak_rss: int | None = None
    error: str | None = None
    code_version: str | None = None
    counted: bool | None = None


class PayloadFold(msgspec.Struct, gc=False):
    """The accepted bytes of a task."""

    task_id: str
    order: int = -1
    raw: str = ""
    digest: str = ""
    options: str | None = None
    metadata: str | None = None


class ActionFold(msgspec.Struct, frozen=True, gc=False):
    """Something an operator did."""

    place: tuple[int, int, int, int]
    at: int
    action: str
    arguments: str | None
    actor: str | None
    reason: str | None
    task_id: str | None


class Folded(msgspec.Struct):
    """The rows of some events."""

    tasks: dict[str, TaskFold]
    attempts: dict[tuple[str, int], AttemptFold]
    payloads: dict[str, PayloadFold]
    actions: list[ActionFold]


def fold(events: Iterable[Placed]) -> Folded:
    """The rows that these events alone make."""
    rows = Folded({}, {}, {}, [])
    for placed in events:
        handler = _HANDLERS.get(placed.event.kind)
        if handler is not None:
            handler(rows, placed)
    return rows


def _task(rows: Folded, placed: Placed) -> TaskFold:
    """The task's row, with what every event tells."""
    event = placed.event
    task = rows.tasks.get(event.task_id)
    if task is None:
        task = rows.tasks[event.task_id] = TaskFold(event.task_id)
    detail = event.detail
    if task.name is None and detail.name:
        task.name = detail.name
    if task.queue is None and detail.queue:
        task.queue = detail.queue
    return task


def _move(task: TaskFold, placed: Placed, state: State, attempt: int) -> None:
    if placed.place > task.place:
        task.place = placed.place
        task.state = state
        task.attempt = attempt
        task.ended_at = placed.at if state in ENDED else None


def _simple(rows: Folded, placed: Placed) -> TaskFold:
    event = placed.event
    task = _task(rows, placed)
    _move(task, placed, _AFTER[event.kind], event.attempt)
    return task


def _submitted(rows: Folded, placed: Placed) -> None:
    event, detail = placed.event, placed.event.detail
    task = _task(rows, placed)
    _move(task, placed, State.SCHEDULED if detail.due_ms else State.QUEUED, event.attempt)
    task.submitted_at = placed.at
    task.unique_key = detail.unique_key
    task.trace_id = detail.trace
    task.metadata = detail.metadata or None
    _priority(task, placed)
    _due(task, placed)
    if detail.options is not None:
        task.max_attempts = _max_attempts(detail.options)
    _payload(rows, task, placed)


@lru_cache(maxsize=1024)
def _max_attempts(options: str) -> int | None:
    try:
        return unpack_options(options).max_attempts
    except (msgspec.DecodeError, ValueError):
        return None


def _payload(rows: Folded, task: TaskFold, placed: Placed) -> None:
    detail = placed.event.detail
    if detail.payload is None:
        return
    if placed.order > task.payload_order:
        task.payload_order = placed.order
        task.payload = detail.payload
    kept = rows.payloads.get(task.id)
    if kept is None:
        kept = rows.payloads[task.id] = PayloadFold(task.id)
    if placed.order > kept.order:
        kept.order, kept.raw, kept.digest = placed.order, detail.payload, detail.digest or ""
    if placed.event.kind is Kind.SUBMITTED:
        kept.options, kept.metadata = detail.options, detail.metadata or None


def _priority(task: TaskFold, placed: Placed) -> None:
    if placed.event.detail.priority and placed.order > task.priority_order:
        task.priority_order = placed.order
        task.priority = placed.event.detail.priority


def _due(task: TaskFold, placed: Placed) -> None:
    if placed.order > task.due_order:
        task.due_order = placed.order
        task.due_at = placed.event.detail.due_ms


def _retried(rows: Folded, placed: Placed) -> None:
    task = _simple(rows, placed)
    task.lives += 1
    task.life_epoch = max(task.life_epoch, placed.event.epoch)
    _due(task, placed)
    _priority(task, placed)
    _payload(rows, task, placed)


def _started(rows: Folded, placed: Placed) -> None:
    event, detail = placed.event, placed.event.detail
    task = _simple(rows, placed)
    wait_s = _seconds(detail.wait_ms)
    worker = detail.owner or placed.worker or None
    if task.started_at is None or placed.at < task.started_at:
        task.started_at = placed.at
    if event.epoch > task.start_epoch:
        task.start_epoch = event.epoch
        task.worker, task.code_version, task.wait_s = worker, detail.code_version, wait_s
    run = _attempt(rows, placed)
    run.number = event.attempt
    run.started_at, run.wait_s, run.code_version, run.worker = placed.at, wait_s, detail.code_version, worker


def _progressed(rows: Folded, placed: Placed) -> None:
    task, detail = _simple(rows, placed), placed.event.detail
    if placed.order > task.progress_order:
        task.progress_order = placed.order
        task.progress_epoch = placed.event.epoch
        task.fraction, task.message = detail.fraction, detail.message


def _attempt(rows: Folded, placed: Placed) -> AttemptFold:
    key = (placed.event.task_id, placed.event.epoch)
    run = rows.attempts.get(key)
    if run is None:
        run = rows.attempts[key] = AttemptFold(*key, number=placed.event.attempt)
    return run


def _end_attempt(rows: Folded, task: TaskFold, placed: Placed, outcome: str, *, counted: bool) -> None:
    event, detail = placed.event, placed.event.detail
    run = _attempt(rows, placed)
    run.ended_at, run.outcome, run.counted = placed.at, outcome, counted
    run.run_s = _seconds(detail.run_ms)
    run.cpu_s = _seconds(detail.cpu_ms)
    run.peak_rss = detail.peak_rss
    run.error = detail.error or None
    if run.worker is None:
        run.worker = detail.owner or placed.worker or None
    if event.epoch > task.end_epoch:
        task.end_epoch = event.epoch
        task.run_s = run.run_s
    if run.error is not None and event.epoch > task.error_epoch:
        task.error_epoch = event.epoch
        task.error = run.error


def _succeeded(rows: Folded, placed: Placed) -> None:
    task = _simple(rows, placed)
    task.result = placed.event.detail.result or None
    _end_attempt(rows, task, placed, Outcome.SUCCEEDED, counted=True)


def _failed(rows: Folded, placed: Placed) -> None:
    event, detail = placed.event, placed.event.detail
    task = _task(rows, placed)
    _move(task, placed, _AFTER[event.kind], event.attempt - (0 if detail.counted else 1))
    if event.kind is Kind.RETRYING:
        _due(task, placed)
    _end_attempt(rows, task, placed, detail.outcome or Outcome.FAILED, counted=detail.counted)


def _cancelled(rows: Folded, placed: Placed) -> None:
    task, detail = _simple(rows, placed), placed.event.detail
    if detail.outcome or detail.run_ms is not None:  # it was running
        _end_attempt(rows, task, placed, Outcome.CANCELLED, counted=True)


def _given_back(rows: Folded, placed: Placed) -> None:
    event = placed.event
    task = _task(rows, placed)
    _move(task, placed, _AFTER[event.kind], event.attempt - 1)
    _end_attempt(rows, task, placed, Outcome.RELEASED, counted=False)


def _moved(rows: Folded, placed: Placed) -> None:
    task = _simple(rows, placed)
    _priority(task, placed)


def _action(rows: Folded, placed: Placed) -> None:
    event, detail = placed.event, placed.event.detail
    rows.actions.append(
        ActionFold(
            placed.place,
            placed.at,
            detail.action or "",
            detail.arguments or None,
            detail.actor,
            detail.reason,
            event.task_id or None,
        )
    )


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000.0


_HANDLERS: dict[Kind, Callable[[Folded, Placed], object]] = {
    Kind.SUBMITTED: _submitted,
    Kind.PROMOTED: _moved,
    Kind.UNPARKED: _moved,
    Kind.REPRIORITISED: _moved,
    Kind.STARTED: _started,
    Kind.PROGRESSED: _progressed,
    Kind.SUCCEEDED: _succeeded,
    Kind.RETRYING: _failed,
    Kind.DEAD: _failed,
    Kind.CANCELLED: _cancelled,
    Kind.RELEASED: _given_back,
    Kind.PARKED: _given_back,
    Kind.RETRIED: _retried,
    Kind.ACTION: _action,
}
