"""What a caller may say about one submission, checked in this one place for every way in.

REST, command line and Python hand in a mapping; unknown names are refused with the nearest known one,
values out of bounds with the bounds. `run_at` is held against the clock later, in `order.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec

from taskq_core.errors import InvalidJson, InvalidOption
from taskq_core.model.codec import encode_json
from taskq_core.model.retry import MAX_ATTEMPTS
from taskq_core.model.task import MAX_DELAY_S, MAX_UNIQUE_KEY, Priority, check_queue
from taskq_core.words import nearest

__all__ = [
    "MAX_METADATA",
    "MAX_RESULT_TTL_S",
    "MAX_TIMEOUT_S",
    "Backoff",
    "CallOptions",
    "check_options",
    "check_timeout",
]

MAX_TIMEOUT_S = 86_400.0
MAX_RESULT_TTL_S = 7 * 86_400.0
MAX_METADATA = 8 * 1024
_BELOW_SPACE = 0x20
_DELETE = 0x7F
_C1_END = 0x9F


class Backoff(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The parts of the retry policy that one submission changes; None keeps the task's own."""

    base: float | None = None
    factor: float | None = None
    cap: float | None = None
    jitter: float | None = None


class CallOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the caller gave; None means that the task's own setting holds."""

    queue: str | None = None
    priority: Priority | None = None
    delay: float | None = None  # seconds from the server's now
    run_at: str | None = None  # RFC 3339 with a zone
    max_attempts: int | None = None
    backoff: Backoff | None = None
    timeout: float | None = None  # seconds of one attempt
    unique_key: str | None = None
    metadata: dict[str, Any] | None = None
    result_ttl: float | None = None  # seconds

    @property
    def changes_run(self) -> bool:
        """Whether the packed options of the task itself no longer fit."""
        return (
            self.max_attempts is not None
            or self.backoff is not None
            or self.timeout is not None
            or self.result_ttl is not None
        )


_NAMES = CallOptions.__struct_fields__


def check_options(given: Mapping[str, object]) -> CallOptions | None:
    """The checked options; None when nothing was given.

    Raises InvalidOption that names the option and its bounds.
    """
    kept = {name: _plain(value) for name, value in given.items() if value is not None}
    for name in kept:
        if name not in _NAMES:
            raise InvalidOption(f"unknown option {name[:60]!r}: {nearest(name, _NAMES)}")
    if not kept:
        return None
    try:
        options = msgspec.convert(kept, CallOptions)
    except msgspec.ValidationError as error:
        raise InvalidOption(_tell(str(error))) from None
    _check_times(options)
    _check_limits(options)
    _check_texts(options)
    return options


def check_timeout(seconds: float) -> float:
    """The seconds themselves. Raises InvalidOption out of bounds."""
    return _within("timeout", seconds, 0.0, MAX_TIMEOUT_S, above=True)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return dict(cast(Mapping[Any, Any], value))
    return value


def _tell(error: str) -> str:
    what, _, where = error.partition(" - at `$.")
    if where == "priority`":
        return f"priority must be {', '.join(Priority)}, not {what.rpartition(' value ')[2]}"
    return f"{where.rstrip('`')}: {what}" if where else what


def _within(name: str, value: float, low: float, high: float, *, above: bool = False) -> float:
    """NaN compares false with everything and is refused like any other stray value."""
    if low <= value <= high and not (above and value == low):
        return value
    fence = "above" if above else "at least"
    raise InvalidOption(f"{name} must be {fence} {low:g} and at most {high:g}, not {value!r:.40}")


def _check_times(options: CallOptions) -> None:
    if options.delay is not None:
        _within("delay (seconds)", options.delay, 0.0, MAX_DELAY_S)
        if options.run_at is not None:
            raise InvalidOption("give delay or run_at, not both")
    if options.timeout is not None:
        check_timeout(options.timeout)
    if options.result_ttl is not None:
        _within("result_ttl (seconds)", options.result_ttl, 0.0, MAX_RESULT_TTL_S)


def _check_limits(options: CallOptions) -> None:
    if options.queue is not None:
        check_queue(options.queue)
    if options.max_attempts is not None:
        _within("max_attempts", options.max_attempts, 1, MAX_ATTEMPTS)


def _check_texts(options: CallOptions) -> None:
    if options.unique_key is not None:
        _check_unique_key(options.unique_key)
    if options.metadata is not None:
        try:
            size = len(encode_json(options.metadata))
        except InvalidJson as error:
            raise InvalidOption(f"metadata: {error}") from error
        if size > MAX_METADATA:
            raise InvalidOption(f"metadata has {size} bytes of JSON; the limit is {MAX_METADATA}")


def _check_unique_key(key: str) -> None:
    if not 0 < len(key) <= MAX_UNIQUE_KEY:
        raise InvalidOption(f"unique_key must have 1 to {MAX_UNIQUE_KEY} characters, not {len(key)}")
    if any(ord(c) < _BELOW_SPACE or _DELETE <= ord(c) <= _C1_END or 0xD800 <= ord(c) < 0xE000 for c in key):
        raise InvalidOption("unique_key must not contain control characters")
