"""What the history gives back: one type per table, as plain immutable rows.

Times are server milliseconds since the epoch, durations are seconds, JSON columns are decoded values.
`None` means unknown: a row may exist before all of its events were seen.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["ActionRow", "AttemptRow", "EventRow", "PayloadRow", "Position", "TaskRow"]


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """One task as its events tell it. `payload` is the redacted copy; see `History.payload` for the bytes."""

    id: str
    state: str
    name: str | None
    queue: str | None
    priority: str | None
    payload: Any
    metadata: Any
    attempt: int  # counted attempts
    max_attempts: int | None
    submitted_at: int | None
    due_at: int | None  # the last due time that was set
    started_at: int | None  # first start
    ended_at: int | None  # None while it lives
    wait_s: float | None  # of the newest attempt
    run_s: float | None  # of the newest attempt; None while that runs
    worker: str | None  # of the newest attempt
    code_version: str | None
    unique_key: str | None
    progress: Any  # {fraction, message}
    result: Any
    error: Any  # {type, message, traceback, fingerprint} of the last failed attempt
    trace_id: str | None  # W3C traceparent of the caller
    lives: int  # 1, and one more for each retry by an operator
    epoch: int  # of the newest attempt
    incarnation: int
    ms: int  # (incarnation, ms, seq, idx): the event that set the state
    seq: int
    idx: int


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a task. `outcome` and `ended_at` are None while it runs."""

    task_id: str
    epoch: int
    number: int
    outcome: str | None
    started_at: int | None
    ended_at: int | None
    wait_s: float | None
    run_s: float | None
    cpu_s: float | None
    peak_rss: int | None  # bytes
    worker: str | None
    error: Any
    code_version: str | None
    counted: bool | None


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """One event. `detail` holds what its kind knows, without the bodies that stand in the task's row."""

    shard: int
    incarnation: int
    ms: int
    seq: int
    idx: int
    n: int
    at: int
    task_id: str | None
    kind: str
    attempt: int
    epoch: int
    worker: str | None
    actor: str | None
    reason: str | None
    detail: Any

    @property
    def id(self) -> str:
        """The event's id, spelled as `model.event.EventId` does."""
        return f"{self.shard}-{self.incarnation}-{self.ms}-{self.seq}-{self.idx}"


class ActionRow(msgspec.Struct, frozen=True, kw_only=True):
    """Something an operator did."""

    shard: int
    incarnation: int
    ms: int
    seq: int
    idx: int
    at: int
    action: str
    arguments: Any
    actor: str | None
    reason: str | None
    task_id: str | None


class PayloadRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a retry or a rebuild needs: the accepted bytes, untouched."""

    task_id: str
    raw: bytes  # raw JSON
    digest: str
    options: str | None  # packed model.task.Options; None when the submission itself could not be kept
    metadata: str | None  # raw JSON


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far the history of a shard has come: its newest committed event."""

    shard: int
    incarnation: int
    ms: int
    seq: int
    n: int  # number of that event
    at: int  # server milliseconds of that event
