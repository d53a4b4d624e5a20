"""Rows as PostgreSQL's binary COPY takes them. Pure.

The server reads bytes by the column's type and never learns how we name them, so a uuid or a jsonb travels
as `bytea` (16 bytes; one version byte and the text) and a timestamp as `int8` (microseconds since 2000).
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import lru_cache

import msgspec

from taskq_core.audit.batch import Placed
from taskq_core.audit.fold import AttemptFold, PayloadFold, TaskFold
from taskq_core.audit.redact import redact_json, redact_text

__all__ = ["ATTEMPT_TYPES", "EVENT_TYPES", "PAYLOAD_TYPES", "TASK_TYPES"]
__all__ += ["attempt_row", "day_of", "event_row", "payload_row", "task_row"]

_EPOCH_2000_MS = 946_684_800_000
_DAY_MS = 86_400_000
_EPOCH = date(1970, 1, 1)
_DAYS_TO_2000 = (date(2000, 1, 1) - _EPOCH).days

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID = _JSON = "bytea"
_TIME = "int8"

EVENT_TYPES = (
    "int4", "int2", "int4", "int8", "int8", "int4", "int8", _TIME, _UUID, "text", "int4", "int8",
    "text", "text", "text", _JSON, "int8",
)  # fmt: skip
TASK_TYPES = (
    _UUID, "int2", "int4", "int8", "int8", "int4", "text", "int4", _TIME, "text", "text", "int4",
    _TIME, "text", "text", _JSON, "int4", "int8", "int8", _JSON,
    "int8", "text", "int8", _TIME, "int8", "int8", _JSON, _TIME,
    "int8", "text", "text", "float8", "int8", "float8", _JSON, "int8", "text",
    "text", "text", _JSON,
)  # fmt: skip
ATTEMPT_TYPES = (
    _UUID, "int8", "int4", _TIME, _TIME, "text", "text", "float8", "float8", "float8", "int8", _JSON,
    "text", "bool",
)  # fmt: skip
PAYLOAD_TYPES = (_UUID, "int8", "bytea", "text", "text", "text")

_encode = msgspec.json.encode
# Bodies stand in the task's row; actor, reason and owner in columns of their own.
_DROPPED = ("payload", "metadata", "options", "result", "actor", "reason", "owner")

type Row = tuple[object, ...]


def day_of(ms: int) -> date:
    """The day of server milliseconds, in UTC."""
    return _EPOCH + timedelta(days=ms // _DAY_MS)


def _time(ms: int | None) -> int | None:
    return None if ms is None else (ms - _EPOCH_2000_MS) * 1000


def _uuid(task_id: str) -> bytes:
    # Only the canonical form: two spellings of one id would be two rows of one key.
    if _ID.fullmatch(task_id) is None:
        raise ValueError(f"{task_id[:60]!r} is not a task id")
    return bytes.fromhex(task_id.replace("-", ""))


def _json(text: str | None) -> bytes | None:
    return None if text is None else b"\x01" + redact_json(text).encode()


def event_row(placed: Placed, shard: int) -> Row:
    """The columns of `copy_events`. Raises ValueError for an id that is none."""
    event, detail = placed.event, placed.event.detail
    incarnation, ms, seq, idx = placed.place
    return (
        ms // _DAY_MS - _DAYS_TO_2000,
        shard,
        incarnation,
        ms,
        seq,
        idx,
        placed.n,
        (placed.at - _EPOCH_2000_MS) * 1000,
        _uuid(event.task_id) if event.task_id else None,
        event.kind,
        event.attempt,
        event.epoch,
        detail.owner or placed.worker or None,
        detail.actor,
        None if detail.reason is None else redact_text(detail.reason),
        _detail(placed),
        placed.digest,
    )


def _detail(placed: Placed) -> bytes:
    detail = placed.event.detail
    members = msgspec.to_builtins(detail)
    for name in _DROPPED:
        members.pop(name, None)
    if detail.error is not None:
        members["error"] = _raw(detail.error)
    if detail.arguments is not None:
        members["arguments"] = _raw(detail.arguments)
    if detail.message is not None:
        members["message"] = redact_text(detail.message)
    return b"\x01" + _encode(members)


def _raw(text: str) -> msgspec.Raw | None:
    return msgspec.Raw(redact_json(text).encode()) if text else None


def task_row(task: TaskFold, shard: int) -> Row:
    """The columns of `copy_tasks`."""
    error_type, error_message, fingerprint = _error_words(task.error)
    return (
        _uuid(task.id),
        shard,
        *task.place,
        task.state,
        task.attempt,
        _time(task.ended_at),
        task.name,
        task.queue,
        task.max_attempts,
        _time(task.submitted_at),
        task.unique_key,
        task.trace_id,
        _json(task.metadata),
        task.lives,
        task.life_epoch,
        task.payload_order,
        _json(task.payload),
        task.priority_order,
        task.priority,
        task.due_order,
        _time(task.due_at),
        task.progress_order,
        task.progress_epoch,
        _progress(task),
        _time(task.started_at),
        task.start_epoch,
        task.worker,
        task.code_version,
        task.wait_s,
        task.end_epoch,
        task.run_s,
        _json(task.result),
        task.error_epoch,
        error_type,
        error_message,
        fingerprint,
        _json(task.error),
    )


def _progress(task: TaskFold) -> bytes | None:
    if task.progress_order < 0:
        return None
    message = None if task.message is None else redact_text(task.message)
    return b"\x01" + _encode({"fraction": task.fraction, "message": message})


class _ErrorWords(msgspec.Struct):
    type: str | None = None
    message: str | None = None
    fingerprint: str | None = None


_error = msgspec.json.Decoder(_ErrorWords)
_NO_WORDS = (None, None, None)
_MESSAGE_CHARS = 1000  # of the column that filters look into; the whole text stands in `error`


@lru_cache(maxsize=512)
def _error_words(error: str | None) -> tuple[str | None, str | None, str | None]:
    if error is None:
        return _NO_WORDS
    try:
        words = _error.decode(redact_json(error))
    except msgspec.DecodeError:
        return _NO_WORDS
    return words.type, words.message and words.message[:_MESSAGE_CHARS], words.fingerprint


def attempt_row(run: AttemptFold) -> Row:
    """The columns of `copy_attempts`."""
    return (
        _uuid(run.task_id),
        run.epoch,
        run.number,
        _time(run.started_at),
        _time(run.ended_at),
        run.outcome,
        run.worker,
        run.wait_s,
        run.run_s,
        run.cpu_s,
        run.peak_rss,
        _json(run.error),
        run.code_version,
        run.counted,
    )


def payload_row(kept: PayloadFold) -> Row:
    """The columns of `copy_payloads`."""
    return (_uuid(kept.task_id), kept.order, kept.raw.encode(), kept.digest, kept.options, kept.metadata)
