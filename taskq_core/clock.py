"""Times: what the server's clock says, as people and programs read it.

Due times, leases and event stamps come from the Redis server's clock, in integer milliseconds since
the epoch. Local deadlines use the monotonic clock. Nothing here reads the local wall clock.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["ServerClock", "format_ms", "monotonic_ns", "parse_rfc3339"]

monotonic_ns = time.monotonic_ns


def format_ms(ms: int | None) -> str | None:
    """RFC 3339 in UTC with milliseconds and `Z`; None stays None."""
    if ms is None:
        return None
    stamp = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{ms % 1000:03d}Z"


def parse_rfc3339(text: str) -> int:
    """Milliseconds since the epoch. Raises ValueError when the text has no zone or is no time."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        message = f"{text!r} has no time zone"
        raise ValueError(message)
    return round(moment.timestamp() * 1000)


class ServerClock:
    """The server's clock, carried on by the monotonic clock between two readings."""

    REFRESH_NS = 60 * 1_000_000_000

    def __init__(self) -> None:
        self._server_ms = 0
        self._read_at = 0

    def set(self, seconds: int, microseconds: int) -> None:
        """Take the two numbers of the server's TIME reply."""
        self._server_ms = seconds * 1000 + microseconds // 1000
        self._read_at = monotonic_ns()

    def is_stale(self) -> bool:
        """Whether a minute has passed since the last reading (or there was none)."""
        return self._read_at == 0 or monotonic_ns() - self._read_at > self.REFRESH_NS

    def now_ms(self) -> int:
        """Server time now, in milliseconds."""
        return self._server_ms + (monotonic_ns() - self._read_at) // 1_000_000
