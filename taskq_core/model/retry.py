"""How often a task is tried, and how long it waits in between."""

from __future__ import annotations

import msgspec

from taskq_core.errors import InvalidOption

__all__ = ["MAX_ATTEMPTS", "MAX_BACKOFF_S", "Retry"]

MAX_ATTEMPTS = 100
MAX_BACKOFF_S = 86_400.0
# Beyond this power every sane base is over its cap; it keeps the arithmetic finite.
MAX_EXPONENT = 63


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exponential back-off: after failure n wait `min(base * factor**(n-1), cap) * (1 + u*jitter)`.

    `u` is uniform in [0, 1). `base` and `cap` are seconds. The default waits 1 s, 2 s and 4 s between
    its four attempts, then the task is dead.
    """

    max_attempts: int = 4
    base: float = 1.0
    factor: float = 2.0
    cap: float = 3600.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        bounds = {
            "max_attempts": (self.max_attempts, 1, MAX_ATTEMPTS),
            "base": (self.base, 0.0, MAX_BACKOFF_S),
            "factor": (self.factor, 1.0, 100.0),
            "cap": (self.cap, 0.0, MAX_BACKOFF_S),
            "jitter": (self.jitter, 0.0, 10.0),
        }
        for name, (value, low, high) in bounds.items():
            if not low <= value <= high:
                message = f"{name} must lie between {low} and {high}, not {value}"
                raise InvalidOption(message)

    def delay_ms(self, failures: int, u: float = 0.0) -> int:
        """Milliseconds to wait after so many failures (1 or more)."""
        power = min(failures - 1, MAX_EXPONENT)
        seconds = min(self.base * self.factor**power, self.cap) * (1.0 + u * self.jitter)
        return int(seconds * 1000)
