"""What the functions write to the event stream, and how it is read back.

One call of a function appends one stream entry with one field `e`: a MessagePack array of the form
``[version, n, at, worker, [event, …]]``. An event is ``[kind, task_id, attempt, epoch, detail]``; its
detail is a map that holds only what that kind knows. Raw JSON (payload, result, error, metadata) travels
as text and is never decoded on the way.

An event's id is (shard, incarnation, stream id, index); `n` counts the events of a shard without a hole.
"""

from __future__ import annotations

import msgspec

from taskq_core.model.lifecycle import Kind

__all__ = ["Detail", "Event", "EventBatch", "EventId", "LiveMessage", "decode_batch", "decode_live"]

WIRE_VERSION = 1


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an event knows beside its kind. Times are server milliseconds, durations milliseconds."""

    # submitted, retried
    name: str = ""
    queue: str = ""
    priority: str = ""
    payload: str | None = None  # raw JSON, the accepted bytes
    metadata: str | None = None  # raw JSON
    options: str | None = None  # packed Options, see task.py (JSON text)
    unique_key: str | None = None
    digest: str | None = None
    due_ms: int | None = None  # also on retrying: when the next attempt is due
    trace: str | None = None  # W3C traceparent of the caller
    # started
    wait_ms: float | None = None  # since it became ready
    code_version: str | None = None
    # the end of an attempt
    run_ms: float | None = None
    outcome: str | None = None
    counted: bool = True  # false: a shared crash, which costs no attempt
    result: str | None = None  # raw JSON
    error: str | None = None  # raw JSON {type, message, traceback, fingerprint}
    cpu_ms: float | None = None
    peak_rss: int | None = None  # bytes
    owner: str | None = None  # the runner whose lease it was, when another one reports it
    # progressed
    fraction: float | None = None
    message: str | None = None
    # commands
    actor: str | None = None
    reason: str | None = None
    action: str | None = None  # name of the operator's action
    arguments: str | None = None  # raw JSON
    epochs: str | None = None  # fenced: which lease was refused


class Event(msgspec.Struct, frozen=True, array_like=True):
    """Something that happened to one task."""

    kind: Kind
    task_id: str  # empty for an action that names no task
    attempt: int  # number of the counted attempt it belongs to; 0 before the first
    epoch: int
    detail: Detail


class EventBatch(msgspec.Struct, frozen=True, array_like=True):
    """What one call of a function wrote."""

    version: int
    n: int  # number of the first event
    at: int  # server milliseconds of the call
    worker: str  # the runner that called; empty for anyone else
    events: list[Event]


class LiveMessage(msgspec.Struct, frozen=True):
    r"""What a function publishes: the head of the stream and, within the budget, the batch itself.

    On the wire: ``<n> <count> <entry>\n<body>``. `count` 0 with `n` above 0 tells the head alone (n is
    then the last event's number). `n` 0 is a progress report: `entry` is the task id, the body JSON.
    """

    n: int  # number of the first event
    count: int
    entry: str  # stream id
    body: bytes  # a packed EventBatch, or empty when it was too large or over the budget


class EventId(msgspec.Struct, frozen=True, order=True):
    """The identity of an event, and its order in its shard."""

    shard: int
    incarnation: int
    ms: int
    seq: int
    index: int

    def __str__(self) -> str:
        return f"{self.shard}-{self.incarnation}-{self.ms}-{self.seq}-{self.index}"


_batch = msgspec.msgpack.Decoder(EventBatch)


def decode_batch(packed: bytes) -> EventBatch:
    """Raises msgspec.DecodeError or msgspec.ValidationError for anything a function did not write."""
    return _batch.decode(packed)


def decode_live(message: bytes) -> LiveMessage:
    """Raises ValueError for anything a function did not publish."""
    head, _, body = message.partition(b"\n")
    n, count, entry = head.decode("ascii").split(" ")
    return LiveMessage(int(n), int(count), entry, body)
