"""What is known of a task, an attempt or an event, whichever store it came from, and the views made of it.

The hash in Redis, the row in Postgres and the fold of events all become `TaskFacts`; only here do facts
become views, so the same task looks the same from every side. Times are server milliseconds, durations
milliseconds; JSON is kept raw until it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from taskq_core.audit.redact import redact_json, redact_text
from taskq_core.audit.rows import AttemptRow, EventRow, TaskRow
from taskq_core.broker.record import TaskRecord
from taskq_core.clock import format_ms
from taskq_core.model.event import Event, EventId
from taskq_core.model.lifecycle import Kind, Outcome, State
from taskq_core.read.views import AttemptView, ErrorView, EventView, ProgressView, TaskView

__all__ = [
    "AttemptFacts",
    "Json",
    "Known",
    "PlacedEvent",
    "TaskFacts",
    "attempt_view",
    "complete",
    "event_view",
    "facts_of_attempt",
    "facts_of_record",
    "facts_of_row",
    "seconds",
    "task_view",
    "view_of_event_row",
]


class Known(msgspec.Struct, frozen=True):
    """A JSON value out of the history: decoded and redacted already."""

    value: Any


type Json = str | bytes | Known | None
"""A JSON value: raw text, out of the history, or not known."""

type Place = tuple[int, int, int, int]
"""Incarnation, ms, seq and index of an event: the order of a shard's events."""

NOWHERE: Place = (0, 0, 0, 0)


class PlacedEvent(msgspec.Struct, frozen=True):
    """An event with what its batch knows: where it stands, its number, when, and who called."""

    id: EventId
    n: int
    at: int  # server ms
    worker: str
    event: Event

    @property
    def place(self) -> Place:
        """Its order in its shard."""
        return (self.id.incarnation, self.id.ms, self.id.seq, self.id.index)


class TaskFacts(msgspec.Struct, kw_only=True):
    """One task in the making: the fold of events writes into it."""

    id: str
    name: str | None
    queue: str | None
    state: State
    priority: str | None = None
    payload: Json = None
    metadata: Json = None
    attempt: int = 0
    epoch: int = 0
    max_attempts: int | None = None
    submitted_ms: int | None = None
    due_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    wait_ms: float | None = None
    run_ms: float | None = None
    worker: str | None = None
    code_version: str | None = None
    unique_key: str | None = None
    fraction: float | None = None
    message: str | None = None
    result: Json = None
    error: Json = None
    trace: str | None = None
    place: Place = NOWHERE  # of the last event that is in here, as far as it is known


class AttemptFacts(msgspec.Struct, kw_only=True):
    """One attempt in the making."""

    task_id: str
    number: int
    epoch: int
    outcome: Outcome | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    wait_ms: float | None = None
    run_ms: float | None = None
    cpu_ms: float | None = None
    peak_rss: int | None = None
    worker: str | None = None
    error: Json = None


def facts_of_record(record: TaskRecord) -> TaskFacts:
    """The facts in a task hash, which keeps only what the functions need: see `complete`."""
    return TaskFacts(
        id=record.id,
        name=record.name,
        queue=record.queue,
        state=record.state,
        priority=record.priority,
        payload=record.payload,
        metadata=record.metadata,
        attempt=record.attempt,
        epoch=record.epoch,
        max_attempts=record.options.max_attempts,
        submitted_ms=record.submitted_ms,
        due_ms=record.due_ms,
        started_ms=record.started_ms,
        ended_ms=record.ended_ms,
        wait_ms=record.wait_ms,
        worker=record.worker or None,
        unique_key=record.unique_key or None,
        fraction=record.progress.fraction if record.progress else None,
        message=record.progress.message if record.progress else None,
        result=record.result,
        error=record.error,
        trace=record.trace or None,
    )


def seconds(ms: float | None) -> float | None:
    """Milliseconds as seconds, to the microsecond; None stays None."""
    return None if ms is None else round(ms / 1000, 6)


def facts_of_row(row: TaskRow) -> TaskFacts:
    """The facts in the history."""
    progress = cast("dict[str, Any]", row.progress or {})
    return TaskFacts(
        id=row.id,
        name=row.name,
        queue=row.queue,
        state=State(row.state),
        priority=row.priority,
        payload=Known(row.payload),
        metadata=Known(row.metadata),
        attempt=row.attempt,
        epoch=row.epoch,
        max_attempts=row.max_attempts,
        submitted_ms=row.submitted_at,
        due_ms=row.due_at,
        started_ms=row.started_at,
        ended_ms=row.ended_at,
        wait_ms=_ms(row.wait_s),
        run_ms=_ms(row.run_s),
        worker=row.worker,
        code_version=row.code_version,
        unique_key=row.unique_key,
        fraction=progress.get("fraction"),
        message=progress.get("message"),
        result=Known(row.result),
        error=Known(row.error),
        trace=row.trace_id,
        place=(row.incarnation, row.ms, row.seq, row.idx),
    )


def complete(facts: TaskFacts, told: TaskFacts) -> None:
    """Add to a hash's facts what only events tell, as far as they are of the same attempt."""
    if told.epoch != facts.epoch:
        return
    facts.started_ms = told.started_ms
    facts.wait_ms = told.wait_ms
    facts.worker = told.worker
    facts.code_version = told.code_version
    facts.run_ms = told.run_ms if told.state is facts.state else facts.run_ms


def facts_of_attempt(row: AttemptRow) -> AttemptFacts:
    """The facts of one run in the history."""
    return AttemptFacts(
        task_id=row.task_id,
        number=row.number,
        epoch=row.epoch,
        outcome=Outcome(row.outcome) if row.outcome else None,
        started_ms=row.started_at,
        ended_ms=row.ended_at,
        wait_ms=_ms(row.wait_s),
        run_ms=_ms(row.run_s),
        cpu_ms=_ms(row.cpu_s),
        peak_rss=row.peak_rss,
        worker=row.worker,
        error=Known(row.error),
    )


def _ms(duration_s: float | None) -> float | None:
    return None if duration_s is None else duration_s * 1000


def task_view(facts: TaskFacts) -> TaskView:
    """The task as it is shown."""
    told = facts.fraction is not None or facts.message is not None
    return TaskView(
        id=facts.id,
        name=facts.name,
        queue=facts.queue,
        priority=facts.priority,
        state=facts.state,
        payload=_decode(facts.payload),
        metadata=_decode(facts.metadata),
        attempt=facts.attempt,
        max_attempts=facts.max_attempts,
        submitted_at=format_ms(facts.submitted_ms),
        due_at=format_ms(facts.due_ms),
        started_at=format_ms(facts.started_ms),
        ended_at=format_ms(facts.ended_ms),
        wait_s=seconds(facts.wait_ms),
        run_s=seconds(facts.run_ms),
        worker=facts.worker,
        code_version=facts.code_version,
        unique_key=facts.unique_key,
        progress=ProgressView(fraction=facts.fraction, message=facts.message) if told else None,
        result=_decode(facts.result),
        error=_error(facts.error),
        trace_id=_trace_id(facts.trace),
    )


def attempt_view(facts: AttemptFacts) -> AttemptView:
    """The attempt as it is shown."""
    return AttemptView(
        task_id=facts.task_id,
        number=facts.number,
        epoch=facts.epoch,
        outcome=facts.outcome,
        started_at=format_ms(facts.started_ms),
        ended_at=format_ms(facts.ended_ms),
        wait_s=seconds(facts.wait_ms),
        run_s=seconds(facts.run_ms),
        cpu_s=seconds(facts.cpu_ms),
        peak_rss=facts.peak_rss,
        worker=facts.worker,
        error=_error(facts.error),
    )


def event_view(placed: PlacedEvent) -> EventView:
    """An event out of the stream; its worker is the runner that it is about."""
    event, detail = placed.event, placed.event.detail
    return EventView(
        id=str(placed.id),
        task_id=event.task_id or None,
        kind=event.kind,
        at=format_ms(placed.at) or "",
        attempt=event.attempt,
        worker=detail.owner or placed.worker or None,
        actor=detail.actor,
        reason=None if detail.reason is None else redact_text(detail.reason),
        detail=_shown(cast("dict[str, Any]", msgspec.to_builtins(detail))),
    )


def view_of_event_row(row: EventRow) -> EventView:
    """The same event out of the history."""
    return EventView(
        id=row.id,
        task_id=row.task_id,
        kind=Kind(row.kind),
        at=format_ms(row.at) or "",
        attempt=row.attempt,
        worker=row.worker,
        actor=row.actor,
        reason=row.reason,
        detail=_shown({name: Known(value) if name in _JSON else value for name, value in row.detail.items()}),
    )


# The bodies stand in the task, actor, reason and owner in the event itself; the digest serves machines only.
_HIDDEN = frozenset(
    {"payload", "metadata", "options", "result", "digest", "actor", "reason", "owner", "due_ms", "trace"}
)
_JSON = frozenset({"error", "arguments"})


def _shown(members: Mapping[str, Any]) -> dict[str, Any]:
    """What this event knows, in the words of the views; what it does not know is left out."""
    shown: dict[str, Any] = {}
    for name, value in members.items():
        if name in _HIDDEN or value is None:
            continue
        if name.endswith("_ms"):
            shown[f"{name.removesuffix('_ms')}_s"] = seconds(value)
        elif name == "error":
            shown[name] = msgspec.to_builtins(_error(value))
        elif name == "message":
            shown[name] = redact_text(value)
        else:
            shown[name] = _decode(value) if name in _JSON else value
    if members.get("due_ms") is not None:
        shown["due_at"] = format_ms(members["due_ms"])
    if trace_id := _trace_id(members.get("trace")):
        shown["trace_id"] = trace_id
    return shown


def _decode(raw: Json) -> Any:
    """The redacted value; text that is no JSON (nothing of ours writes it) is shown as it is."""
    if isinstance(raw, Known):
        return raw.value
    if not raw:
        return None
    text = redact_json(raw if isinstance(raw, str) else raw.decode("utf-8", "replace"))
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _error(raw: Json) -> ErrorView | None:
    told = _decode(raw)
    if told is None:
        return None
    if not isinstance(told, dict):
        return ErrorView(message=str(told))
    members = cast("dict[str, Any]", told)
    return ErrorView(**{name: _text(members.get(name)) for name in ErrorView.__struct_fields__})


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def _trace_id(traceparent: str | None) -> str | None:
    """The trace id in a W3C traceparent (`00-<trace id>-<span id>-<flags>`)."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else None
