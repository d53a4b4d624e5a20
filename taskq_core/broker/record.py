"""The task hash as a typed record. The letters of its fields are explained in `keys`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from taskq_core.broker.keys import SOLO
from taskq_core.model.lifecycle import ENDED, State
from taskq_core.model.task import Options, unpack_options

__all__ = ["Progress", "TaskRecord", "decode_record"]


class Progress(msgspec.Struct, frozen=True):
    """The last progress of a running task, as the function wrote it."""

    fraction: float | None = None  # 0 to 1
    message: str | None = None
    at: int = 0  # server ms


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One task as Redis holds it now. Times are server milliseconds; raw JSON is kept as bytes."""

    id: str
    name: str
    queue: str
    priority: str  # the caller's, also while it waits among the `solo` ones
    state: State
    epoch: int
    attempt: int  # counted attempts so far
    entry: str  # in the ready stream: its own while it is queued or running, else its last one
    worker: str  # the runner that holds, or last held, the lease; empty before the first
    since_ms: int  # when the state began
    payload: bytes = b""
    metadata: bytes = b""
    options: Options = Options()
    digest: str = ""
    unique_key: str = ""
    trace: str = ""
    submitted_ms: int = 0
    due_ms: int | None = None
    earlier_start_ms: int | None = (
        None  # of the first attempt of this life, once it ended without ending the task
    )
    progress: Progress | None = None
    result: bytes | None = None
    error: bytes | None = None
    crashes: int = 0
    cancel_actor: str | None = None  # someone asked for cancellation

    @property
    def started_ms(self) -> int | None:
        """Start of the first attempt of this life; None where the hash does not tell it (any more)."""
        if self.earlier_start_ms is None and self.state is State.RUNNING:
            return self.since_ms
        return self.earlier_start_ms

    @property
    def ended_ms(self) -> int | None:
        """The end; None while it lives."""
        return self.since_ms if self.state in ENDED else None

    @property
    def wait_ms(self) -> int | None:
        """From being ready (which the entry's id tells) to the start of the attempt that runs."""
        if self.state is not State.RUNNING:
            return None
        return max(0, self.since_ms - int(self.entry.partition("-")[0]))


_progress = msgspec.json.Decoder(Progress, strict=False)


def decode_record(task_id: str, fields: Mapping[bytes, bytes]) -> TaskRecord | None:
    """The record of an HGETALL reply; None when there is no such task."""
    life = fields.get(b"l")
    if life is None:
        return None
    # lua/lib/life.lua: state epoch attempt entry owner since
    state, epoch, attempt, entry, owner, since = life.decode().split(" ")
    asked = fields.get(b"c")
    return TaskRecord(
        id=task_id,
        name=_text(fields, b"n"),
        queue=_text(fields, b"q"),
        priority=_priority(fields),
        state=State(state),
        epoch=int(epoch),
        attempt=int(attempt),
        entry="" if entry == "-" else entry,
        worker="" if owner == "-" else owner,
        since_ms=int(since),
        payload=fields.get(b"d", b""),
        metadata=fields.get(b"m", b""),
        options=unpack_options(fields[b"o"]) if fields.get(b"o") else Options(),
        digest=_text(fields, b"g"),
        unique_key=_text(fields, b"u"),
        trace=_text(fields, b"t"),
        submitted_ms=_number(fields, b"at") or 0,
        due_ms=_number(fields, b"due"),
        earlier_start_ms=_number(fields, b"fs"),
        progress=_progress.decode(fields[b"pf"]) if fields.get(b"pf") else None,
        result=fields.get(b"r") or None,
        error=fields.get(b"f") or None,
        crashes=_number(fields, b"k") or 0,
        cancel_actor=None if asked is None else asked.decode(),
    )


def _text(fields: Mapping[bytes, bytes], field: bytes) -> str:
    return fields.get(field, b"").decode()


def _number(fields: Mapping[bytes, bytes], field: bytes) -> int | None:
    """An integer field; empty and missing are None. Lua may have written it as a float."""
    raw = fields.get(field)
    return int(float(raw)) if raw else None


def _priority(fields: Mapping[bytes, bytes]) -> str:
    priority = _text(fields, b"p")
    return _text(fields, b"b") or "normal" if priority == SOLO else priority
