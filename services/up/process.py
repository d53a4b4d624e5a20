"""One role as a child process: in a group of its own, its output in a file, its life tied to ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from services.up.output import Output

__all__ = ["Lifeline", "Role", "RoleProcess"]

_POLL_S = 0.02


class Role(msgspec.Struct, frozen=True):
    """What to run. Secrets travel in the environment, never in `argv`, which everyone may read."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]


class Lifeline:
    """The pipe by which the roles notice that we are gone, however we went."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()

    def close(self) -> None:
        """Let go; roles that still live end themselves."""
        os.close(self.reader)
        os.close(self._writer)


class RoleProcess:
    """A role, running or not. Start it from a thread that lives as long as the program."""

    def __init__(self, role: Role, lifeline: Lifeline, log: Path) -> None:
        self.role = role
        self.output = Output(role.name, log)
        self._lifeline = lifeline
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; an earlier one has ended."""
        with self.output.open() as out:
            self._process = subprocess.Popen(
                [*self.role.argv, "--parent-fd", str(self._lifeline.reader)],
                env=dict(self.role.environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=(self._lifeline.reader,),
                start_new_session=True,  # Ctrl-C reaches only us
            )

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Exit code (negative: the signal that killed it), None while it runs or before its start."""
        return self._process.poll() if self._process else None

    @property
    def how_it_ended(self) -> str:
        """`exit code 1` or `SIGKILL`, for people."""
        code = self.exit_code
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-code).name
        return f"exit code {code}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal if it still runs."""
        if self._process is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def wait(self, timeout: float, hurry: asyncio.Event | None = None) -> bool:
        """Wait so many seconds for its end, or until `hurry` is set; whether it ended."""
        deadline = time.monotonic() + timeout
        while self.alive and time.monotonic() < deadline and not (hurry and hurry.is_set()):
            await asyncio.sleep(_POLL_S)
        return not self.alive

    def kill(self) -> None:
        """End it and its group now."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # also what an ended leader left behind
        self._process.wait()
