"""What running task code may know of its attempt: `current()`."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

__all__ = ["Current", "current", "enter"]


class Current:
    """The attempt that runs here. Safe to use from the task's own threads."""

    __slots__ = ("_report", "attempt", "cancelled", "metadata", "task_id", "token")

    def __init__(
        self,
        task_id: str,
        attempt: int,
        epoch: int,
        metadata: dict[str, Any] | None,
        report: Callable[[float, str], None],
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt  # 1 for the first
        self.token = f"{task_id}:{epoch}"  # the same for no other attempt: an idempotency token
        self.metadata = metadata or {}
        self.cancelled = False  # someone asked for its end, or its time is over: return soon
        self._report = report

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far it is, 0 to 1. The latest word wins; it costs nothing to call it often."""
        known = float(fraction) if math.isfinite(fraction) else 0.0
        text = message[:500].replace("\0", "").encode("utf-8", "replace").decode()
        self._report(min(max(known, 0.0), 1.0), text)


_current: ContextVar[Current] = ContextVar("taskq_current")


def current() -> Current:
    """The running attempt. Raises LookupError outside a task."""
    try:
        return _current.get()
    except LookupError:
        message = "current() is known only inside a task that a worker runs"
        raise LookupError(message) from None


def enter(attempt: Current) -> None:
    """Make it the current one of this context."""
    _current.set(attempt)
