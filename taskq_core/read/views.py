"""What is shown: one struct per view, with the names that REST, WebSocket, `--json` and Python share.

Times are RFC 3339 in UTC with milliseconds and `Z`, from the server's clock. Durations are seconds. What is
not known is None (null in JSON), never absent: no struct here omits a field. Payloads are redacted.
"""

from __future__ import annotations

from typing import Any

import msgspec

from taskq_core.model.lifecycle import Kind, Outcome, State

__all__ = [
    "AttemptList",
    "AttemptView",
    "CatalogList",
    "CatalogView",
    "ErrorView",
    "EventList",
    "EventView",
    "FeedBatch",
    "LedgerView",
    "OverviewView",
    "ProgressView",
    "QueueList",
    "QueueView",
    "RatesView",
    "RelayView",
    "RunnerView",
    "TaskList",
    "TaskView",
    "VerdictView",
    "WorkerList",
    "WorkerView",
]


class ErrorView(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt failed."""

    type: str | None = None
    message: str | None = None
    traceback: str | None = None
    fingerprint: str | None = None  # equal for failures of one cause


class ProgressView(msgspec.Struct, frozen=True, kw_only=True):
    """How far a running task says it is."""

    fraction: float | None = None  # 0 to 1
    message: str | None = None


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """One task as it stands."""

    id: str
    name: str | None = None
    queue: str | None = None
    priority: str | None = None
    state: State
    payload: Any = None
    metadata: dict[str, Any] | None = None
    attempt: int = 0  # counted attempts so far, the running one included
    max_attempts: int | None = None
    submitted_at: str | None = None
    due_at: str | None = None  # when it is, or was last, due; None: it was ready at once
    started_at: str | None = None  # first start of this life
    ended_at: str | None = None  # None while it lives
    wait_s: float | None = None  # of the newest attempt: from being ready to its start
    run_s: float | None = None  # of the newest attempt; None while that runs
    worker: str | None = None  # the runner that holds, or last held, the lease
    code_version: str | None = None
    unique_key: str | None = None
    progress: ProgressView | None = None
    result: Any = None
    error: ErrorView | None = None  # of the last failed attempt
    trace_id: str | None = None


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a task; its key is (task_id, epoch)."""

    task_id: str
    number: int  # of the counted attempt
    epoch: int
    outcome: Outcome | None = None  # None while it runs
    started_at: str | None = None
    ended_at: str | None = None
    wait_s: float | None = None
    run_s: float | None = None
    cpu_s: float | None = None
    peak_rss: int | None = None  # bytes
    worker: str | None = None
    error: ErrorView | None = None


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened.

    `detail` holds what that kind knows, durations in seconds (`…_s`). Payload, metadata and result are not
    repeated here: they stand in the task.
    """

    id: str
    task_id: str | None = None  # None: an action that names no task
    kind: Kind
    at: str
    attempt: int = 0
    worker: str | None = None
    actor: str | None = None
    reason: str | None = None
    detail: dict[str, Any] = {}


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """A queue now."""

    name: str
    paused: bool = False
    depth: dict[str, int] = {}  # scheduled, queued, running, retrying, parked, dead
    oldest_s: float | None = None  # age of the oldest task that waits to be taken; None: none waits
    rate_in: float | None = None  # tasks per second
    rate_out: float | None = None
    workers: int = 0  # live workers that take from it


class RunnerView(msgspec.Struct, frozen=True, kw_only=True):
    """A child process of a worker."""

    pid: int | None = None
    rss: int | None = None  # bytes
    tasks: int | None = None  # running in it now


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as it last described itself."""

    id: str
    host: str | None = None
    pid: int | None = None
    started_at: str | None = None
    seen_at: str | None = None
    queues: list[str] = []
    slots: int | None = None
    busy: int | None = None
    runners: list[RunnerView] = []
    code_version: str | None = None
    state: str | None = None  # what the worker says; `lost` when it has been silent for too long


class VerdictView(msgspec.Struct, frozen=True, kw_only=True):
    """The one sentence on health."""

    level: str  # ok, degraded, down
    text: str
    reasons: list[str] = []  # one sentence each, the worst first


class RatesView(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks per second over the last seconds, and percentiles (seconds) since the counters began."""

    rate_in: float | None = None
    rate_out: float | None = None
    wait_p50_s: float | None = None
    wait_p95_s: float | None = None
    run_p50_s: float | None = None
    run_p95_s: float | None = None


class LedgerView(msgspec.Struct, frozen=True, kw_only=True):
    """Every accepted task is alive or has ended: `unexplained` = accepted - live - ended, and should be 0."""

    accepted: int | None = None
    live: int | None = None
    ended: int | None = None
    unexplained: int | None = None


class RelayView(msgspec.Struct, frozen=True, kw_only=True):
    """How far the history is behind."""

    backlog: int | None = None  # events not committed yet
    lag_s: float | None = None  # age of the oldest of them


class OverviewView(msgspec.Struct, frozen=True, kw_only=True):
    """The whole system on one page."""

    verdict: VerdictView
    queues: list[QueueView] = []
    workers: list[WorkerView] = []
    rates: RatesView = RatesView()
    ledger: LedgerView = LedgerView()
    relay: RelayView = RelayView()


class CatalogView(msgspec.Struct, frozen=True, kw_only=True):
    """A task that workers have registered."""

    name: str
    queue: str | None = None
    kind: str | None = None  # async, thread, isolated
    schema: dict[str, Any] | None = None  # JSON Schema of the payload
    retry: dict[str, Any] | None = None  # max_attempts, base, factor, cap, jitter
    timeout: float | None = None
    doc: str | None = None
    priority: str | None = None
    result_ttl: float | None = None
    versions: list[str] = []  # code versions that registered it, newest first


# Lists. `next` is the opaque cursor of the next page, None on the last one. `as_of` is the position
# `shard-incarnation-ms-seq` of the last event that the list knows; None for a list not made of events.


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks, most recent first."""

    tasks: list[TaskView]
    next: str | None = None
    as_of: str | None = None


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """Events: of one task in their order, of all tasks newest first."""

    events: list[EventView]
    next: str | None = None
    as_of: str | None = None


class AttemptList(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts of a task in their order."""

    attempts: list[AttemptView]
    next: str | None = None
    as_of: str | None = None


class QueueList(msgspec.Struct, frozen=True, kw_only=True):
    """Queues by name."""

    queues: list[QueueView]
    next: str | None = None
    as_of: str | None = None


class WorkerList(msgspec.Struct, frozen=True, kw_only=True):
    """Workers, longest running first."""

    workers: list[WorkerView]
    next: str | None = None
    as_of: str | None = None


class CatalogList(msgspec.Struct, frozen=True, kw_only=True):
    """Registered tasks by name."""

    catalog: list[CatalogView]
    next: str | None = None
    as_of: str | None = None


class FeedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What `follow` yields: events in order, and the cursor to resume behind them.

    `events` is empty in a heartbeat. `missed` > 0 tells a gap: that many events happened before these and
    could not be found any more. `progress` tells what running tasks said of themselves since (by task id); it
    is no event and is not repeated.
    """

    cursor: str
    events: list[EventView] = []
    missed: int = 0
    progress: dict[str, ProgressView] = {}
