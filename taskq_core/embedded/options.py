"""What a caller may change about the embedded servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Settings of one `Servers`; the defaults suit a laptop and a small server alike."""

    valkey: bool = True
    """Start Valkey. False when the user brought a Redis of their own."""
    postgres: bool = True
    """Start PostgreSQL. False when the user brought one of their own."""
    tcp: bool = False
    """Answer on loopback ports (with passwords) even where a unix socket would do."""
    maxmemory: int | None = None
    """Bytes Valkey may use; None means 75 % of the host's or the cgroup's memory."""
    appendfsync: str = "everysec"
    """`everysec`, or `always` for the strict profile."""
    valkey_settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """More lines of the Valkey configuration; they win over ours."""
    postgres_settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """More PostgreSQL settings; they win over ours."""
    start_timeout: float = 120.0
    """Seconds a server may take until it answers (recovery after a crash included)."""
    stop_timeout: float = 10.0
    """Seconds a server may take for a clean stop before it is killed."""
