"""The function library: lua/ joined into one text whose digest is part of every name.

Function names are global to a server, so the digest keeps an old and a new release apart.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

__all__ = ["FUNCTIONS", "Library", "load_library"]

# Order matters: a local function must stand above its first use.
_INCLUDES = (
    "keys",
    "events",
    "counters",
    "groups",
    "life",
    "lease",
    "queueing",
    "claim",
    "settling",
    "recover",
)
FUNCTIONS = (
    "submit",
    "take",
    "settle",
    "settle_take",
    "renew",
    "reclaim",
    "sweep",
    "promote",
    "cancel",
    "retry_dead",
    "unpark",
    "progress",
    "await",
    "record",
    "forget",
    "trim",
    "gc_consumer",
    "ensure",
)
_REGISTER = """
local function register(name, callback, flags)
  local full_name = 'taskq_' .. name .. '_{digest}'
  redis.register_function{{ function_name = full_name, callback = callback, flags = flags }}
end
"""


class Library:
    """The text to load and the names that it registers."""

    def __init__(self, body: str) -> None:
        self.body = body
        self.digest = hashlib.sha256(body.encode()).hexdigest()[:8]
        self.name = f"taskq_{self.digest}"
        self.text = f"#!lua name={self.name}\n{_REGISTER.format(digest=self.digest)}\n{body}"
        self._names = {name: f"taskq_{name}_{self.digest}" for name in FUNCTIONS}

    def function(self, name: str) -> str:
        """The registered name of a function."""
        return self._names[name]


@cache
def load_library() -> Library:
    """Read and join the files, once a process."""
    root = resources.files("taskq_core.broker") / "lua"
    parts = [(root / "lib" / f"{name}.lua").read_text("utf-8") for name in _INCLUDES]
    parts += [(root / f"{name}.lua").read_text("utf-8") for name in FUNCTIONS]
    return Library("\n".join(parts))
