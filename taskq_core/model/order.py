"""A submission before it has an id: the checked arguments, what the task says, what the caller said."""

from __future__ import annotations

import msgspec

from taskq_core.clock import parse_rfc3339
from taskq_core.errors import InvalidOption
from taskq_core.model.codec import digest, encode_json
from taskq_core.model.options import Backoff, CallOptions
from taskq_core.model.retry import Retry
from taskq_core.model.task import MAX_DELAY_S, Options, Priority, Submission, pack_options

__all__ = ["Defaults", "Order", "Receipt", "build", "make_defaults"]

_encode = msgspec.json.Encoder(order="sorted").encode


class Defaults(msgspec.Struct, frozen=True):
    """What a declaration says about every submission of its task."""

    queue: str
    priority: Priority
    options: Options
    packed: str  # the same options as the task hash keeps them


class Order(msgspec.Struct, frozen=True):
    """One task to be submitted; name, payload and options are checked."""

    name: str
    payload: bytes  # raw JSON
    defaults: Defaults
    given: CallOptions | None = None
    trace: str = ""


class Receipt(msgspec.Struct, frozen=True):
    """What the caller gets back: the task that now exists."""

    id: str
    name: str
    queue: str
    state: str
    submitted_at: int  # server ms
    deduplicated: bool = False  # an earlier task holds the unique key, or the same submission came before


def make_defaults(
    queue: str, priority: Priority, retry: Retry, timeout: float | None, result_ttl: float
) -> Defaults:
    """Defaults with their packed form; the values are checked by the caller."""
    options = Options(
        max_attempts=retry.max_attempts,
        base=retry.base,
        factor=retry.factor,
        cap=retry.cap,
        jitter=retry.jitter,
        timeout=timeout,
        result_ttl=result_ttl,
    )
    return Defaults(queue, priority, options, pack_options(options))


def build(order: Order, task_id: str, now_ms: int) -> Submission:
    """The submission that the broker takes. Raises InvalidOption for a `run_at` out of bounds."""
    given, defaults = order.given, order.defaults
    name, payload = order.name, order.payload
    if given is None:
        queue = defaults.queue
        mark = digest(name.encode(), queue.encode(), payload, b"", b"")
        return Submission(
            task_id,
            name,
            queue,
            defaults.priority,
            payload.decode(),
            defaults.packed,
            mark,
            trace=order.trace,
        )
    queue = given.queue or defaults.queue
    unique = given.unique_key or ""
    return Submission(
        id=task_id,
        name=name,
        queue=queue,
        priority=given.priority or defaults.priority,
        payload=payload.decode(),
        options=pack_options(_merge(defaults.options, given)) if given.changes_run else defaults.packed,
        digest=digest(name.encode(), queue.encode(), payload, unique.encode(), _encode(given)),
        due_ms=_due_ms(given.run_at, now_ms),
        delay_ms=round((given.delay or 0.0) * 1000),
        unique_key=unique,
        metadata="" if given.metadata is None else encode_json(given.metadata).decode(),
        trace=order.trace,
    )


def _merge(own: Options, given: CallOptions) -> Options:
    backoff = given.backoff or Backoff()
    policy = Retry(  # checks the bounds of the mixture
        max_attempts=own.max_attempts if given.max_attempts is None else given.max_attempts,
        base=own.base if backoff.base is None else backoff.base,
        factor=own.factor if backoff.factor is None else backoff.factor,
        cap=own.cap if backoff.cap is None else backoff.cap,
        jitter=own.jitter if backoff.jitter is None else backoff.jitter,
    )
    return Options(
        max_attempts=policy.max_attempts,
        base=policy.base,
        factor=policy.factor,
        cap=policy.cap,
        jitter=policy.jitter,
        timeout=own.timeout if given.timeout is None else given.timeout,
        result_ttl=own.result_ttl if given.result_ttl is None else given.result_ttl,
    )


def _due_ms(run_at: str | None, now_ms: int) -> int:
    if run_at is None:
        return 0
    try:
        due = parse_rfc3339(run_at)
    except (ValueError, OverflowError) as error:
        raise InvalidOption(
            f"run_at {run_at[:40]!r}: write RFC 3339 with a zone, like 2030-01-31T08:00:00Z"
        ) from error
    if abs(due - now_ms) > MAX_DELAY_S * 1000:
        raise InvalidOption(f"run_at {run_at[:40]!r} is more than 90 days away from now")
    return due
