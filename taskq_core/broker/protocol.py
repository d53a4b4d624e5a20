"""What goes into the functions and what comes out, as types. Each travels as one MessagePack value.

The Lua side names the same positions at the top of each file; keep the order. Times are server
milliseconds. Nothing is typed `bytes` on the way in: cmsgpack does not read MessagePack's binary form.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = [
    "Cancelled",
    "Claim",
    "Finish",
    "Held",
    "Op",
    "Promoted",
    "QueueWant",
    "Reclaimed",
    "Renewed",
    "Settled",
    "Submitted",
    "Swept",
    "TakeWant",
    "Taken",
    "TakenHead",
    "TaskState",
]


class Submitted(msgspec.Struct, frozen=True, array_like=True):
    """What became of one submission; `code` is empty when it was accepted (or was there already)."""

    code: str  # '', conflict, unique_taken, too_late, id_clock
    id: str  # the task's id: its own, or the first one's
    state: str
    at: int  # submitted at
    first: bool  # false: an earlier submission's id is given back


class QueueWant(msgspec.Struct, frozen=True, array_like=True):
    """A queue to take from, and which kinds of slots its tasks may need (1-based indexes of budgets)."""

    queue: str
    kinds: list[int]


class Held(msgspec.Struct, frozen=True, array_like=True):
    """An entry that a blocking read delivered and that is not claimed yet."""

    queue: str
    stream: str
    entry: str
    task_id: str


class TakeWant(msgspec.Struct, frozen=True, array_like=True):
    """What a runner asks for."""

    owner: str
    code_version: str
    budgets: list[int]  # free slots by kind: async, thread, isolated
    queues: list[QueueWant]
    streams: list[str]  # high, normal, low; or solo alone
    rotation: int = 0  # which queue comes first among equals
    held: list[Held] = []
    again: bool = False  # answer also what this owner holds by the books
    known: list[str] = []  # with `again`: task ids that the runner knows it holds


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """The right to run a task now."""

    task_id: str
    queue: str
    stream: str
    entry: str
    epoch: int
    attempt: int
    name: str
    options: str  # JSON, see model/task.py
    metadata: str  # raw JSON, or empty
    trace: str
    submitted_at: int


class Op(StrEnum):
    """How a lease ends."""

    OK = "ok"
    FAIL = "fail"  # counts; retried while attempts are left
    PERMANENT = "permanent"  # counts; no retry
    CANCEL = "cancel"  # the code obeyed a cancellation
    RELEASE = "release"  # given back, does not count
    INTERRUPT = "interrupt"  # given back because a neighbour had to be killed
    SHARED_CRASH = "shared_crash"  # one of several went down; does not count, back-off by crashes
    PARK = "park"  # the name is unknown here


class Finish(msgspec.Struct, frozen=True, array_like=True):
    """The end of one lease."""

    task_id: str
    entry: str
    epoch: int
    op: Op
    outcome: str = "failed"  # of FAIL and PERMANENT: failed, timeout, crashed, lease_expired
    run_ms: float = 0.0
    body: str = ""  # result of OK, error of the others; raw JSON
    u: float = 0.0  # random number for the jitter
    reason: str = ""
    cpu_ms: float = -1.0  # below zero: not measured
    peak_rss: int = -1
    owner: str = ""  # the runner whose lease it is, when a supervisor settles for it
    solo: bool = False  # it may have brought its runner down: from now on it runs alone


class Settled(msgspec.Struct, frozen=True, array_like=True):
    """What became of one Finish: the state now, or `fenced`; `again` marks a repeat."""

    state: str
    again: bool


class TakenHead(msgspec.Struct, frozen=True, array_like=True):
    """The packed part of the answer of take and settle_take."""

    at: int
    claims: list[Claim]
    settled: list[Settled]


class Taken(msgspec.Struct, frozen=True):
    """Answer of take and settle_take. Payloads stand beside the claims: the accepted bytes, unread."""

    at: int
    claims: list[Claim]
    payloads: list[bytes]
    settled: list[Settled]


class Renewed(msgspec.Struct, frozen=True, array_like=True):
    """Answer of renew."""

    at: int
    lost: list[str]  # task ids whose lease is gone
    cancelled: list[str]  # task ids whose cancellation was asked


class Reclaimed(msgspec.Struct, frozen=True, array_like=True):
    """Answer of reclaim: the suspects to hand in at the next scan, and how many were acted upon."""

    at: int
    suspects: list[str]
    acted: int
    more: bool


class Cancelled(msgspec.Struct, frozen=True, array_like=True):
    """Answer of cancel: the state after it; `running` means the runner was told."""

    code: str  # '', not_found, conflict
    state: str


class Swept(msgspec.Struct, frozen=True, array_like=True):
    """Answer of sweep."""

    at: int
    suspects: list[str]
    acted: int
    more: bool


class Promoted(msgspec.Struct, frozen=True, array_like=True):
    """Answer of promote."""

    at: int
    next_due: int  # 0: nothing is due later
    moved: int


class TaskState(msgspec.Struct, frozen=True):
    """Answer of await: state, and result or error when it ended. Empty state: not in Redis."""

    state: str
    result: bytes
    error: bytes
