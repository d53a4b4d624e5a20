"""What the roles say: kept in the data folder, and what matters shown in the terminal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from taskq_core.log import escape

__all__ = ["LOG_BYTES", "Output", "readable"]

LOG_BYTES = 8 << 20  # a log is turned over at this size; the one before it is kept
_AT_ONCE = 64 << 10  # bytes of a role's output that one look shows
_LONGEST = 500  # characters of a line in the terminal
_SHOWN = frozenset({"warning", "error", "critical"})


class Output:
    """One role's log file, followed. The role writes into it by itself, so it never waits for us.

    `ready` tells whether the role said so since its start.
    """

    def __init__(self, name: str, file: Path) -> None:
        self._name = name
        self._file = file
        self._seen = file.stat().st_size if file.exists() else 0
        self._rest = b""
        self.ready = False

    def open(self) -> IO[bytes]:
        """The file, to be handed to a process that starts."""
        self.ready = False
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "ab")

    def news(self) -> Iterator[str]:
        """Lines for the terminal since the last look: warnings, and what was not logged but printed."""
        with contextlib.suppress(OSError), self._file.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == self._seen:
                return
            file.seek(max(min(self._seen, size), size - _AT_ONCE))
            fresh = file.read(_AT_ONCE)
            self._seen = file.tell()
            *lines, self._rest = (self._rest + fresh).split(b"\n")
            for line in lines:
                self.ready = self.ready or _says_ready(line)
                shown = readable(line)
                if shown:
                    yield f"{self._name}: {shown}"
        self._turn_over()

    def last_words(self) -> str:
        """The last thing it said."""
        with contextlib.suppress(OSError), self._file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            lines = [line for line in file.read().split(b"\n") if line.strip()]
            if lines:
                return _plain(lines[-1])
        return "it said nothing"

    def _turn_over(self) -> None:
        with contextlib.suppress(OSError):
            if self._file.stat().st_size > LOG_BYTES:
                self._file.with_suffix(".log.1").write_bytes(self._file.read_bytes())
                os.truncate(self._file, 0)  # written to in append mode
                self._seen = 0


def readable(line: bytes) -> str:
    """A line of output as a person wants it; empty when it is routine."""
    entry = _entry(line)
    if entry is None:
        return _plain(line)
    if entry.get("level") not in _SHOWN:  # also what a role says when it is ready
        return ""
    return escape(f"{entry['level']}: {entry.get('message', '')}")[:_LONGEST]


def _says_ready(line: bytes) -> bool:
    """Whether this is the line by which a role tells that it works: `{"ready": <its name>, …}`."""
    entry = _entry(line)
    return entry is not None and "ready" in entry


def _entry(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"{"):
        return None
    try:
        entry = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    return entry if entry.keys() & {"level", "ready"} else None


def _plain(line: bytes) -> str:
    entry = _entry(line)
    text = line.decode(errors="replace").strip() if entry is None else str(entry.get("message", ""))
    return escape(text.removeprefix("taskq: "))[:_LONGEST]
