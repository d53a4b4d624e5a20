"""Socket or port: unix sockets have short names, so a deep data folder needs a port instead."""

from __future__ import annotations

import os
import socket
from pathlib import Path

LONGEST_SOCKET = 100
"""Bytes; Linux takes 107, macOS 103."""


def socket_fits(path: Path) -> bool:
    """Whether a unix socket may have this path, and libpq can name it (a comma parts two hosts there)."""
    name = os.fsencode(path)
    return len(name) <= LONGEST_SOCKET and b"," not in name


def free_port() -> int:
    """A loopback port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
