"""One server process: started, followed, stopped, and its log kept short."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from taskq_core.embedded import drop
from taskq_core.errors import AlreadyRunning, ServerMissing

LOG_BYTES = 8 << 20
"""A log is turned over at this size; the one before it is kept, so the folder holds twice as much at most."""

PREDECESSOR_SECONDS = 10.0
"""How long a server left behind by a killed `taskq up` may take to stop."""

_POLL = 0.02


class Child:
    """A server process that cannot run twice in one folder, nor outlive us unnoticed.

    It holds a lock on its pid file through an inherited descriptor for as long as it, or any process it
    forked, lives: the kernel tells whether an old one is still there, process ids cannot mislead.
    Start it from a thread that lives as long as the program: Linux ends it with that thread.
    """

    def __init__(self, name: str, home: Path, *, stop_signal: signal.Signals) -> None:
        self.name = name
        self.log = home / f"{name}.log"
        self._home = home
        self._pid_file = home / "run" / f"{name}.pid"
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None before the start."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """Exit code (negative: the signal that killed it), None while it runs or before its start."""
        return self._process.poll() if self._process else None

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    async def start(
        self,
        argv: Sequence[str],
        *,
        unprivileged: bool = False,
        own: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a program in a session of its own, so that Ctrl-C reaches only us.

        `unprivileged` programs never run as root (see `drop`); `own` are the folders they write to.
        Raises `AlreadyRunning` when a predecessor does not go away.
        """
        lock = await self._lock_pid_file()
        try:
            self.rotate_log()
            spec: drop.Spec = {
                "argv": list(argv),
                "parent": os.getpid(),
                "death_signal": int(self._stop_signal),
                "pid_fd": lock,
                "unprivileged": unprivileged,
                "own": [str(folder) for folder in own],
                "home": str(self._home),
            }
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: ASYNC220 (returns after the exec: 1 ms)
                    [sys.executable, "-I", "-S", drop.__file__, json.dumps(spec)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    start_new_session=True,
                    env=_plain_environment() | dict(environment or {}),
                )
        finally:
            os.close(lock)  # the child has its own copy

    async def wait(self, timeout: float) -> int | None:
        """Wait up to `timeout` seconds for the end; the exit code, None if it still runs."""
        deadline = time.monotonic() + timeout
        while self.alive and time.monotonic() < deadline:
            await asyncio.sleep(_POLL)
        return self.exit_code

    async def run(
        self, argv: Sequence[str], *, timeout: float, unprivileged: bool = False, own: Sequence[Path] = ()
    ) -> None:
        """Run a program to its end; raises `ServerMissing` with its last words if it fails."""
        await self.start(argv, unprivileged=unprivileged, own=own)
        try:
            if await self.wait(timeout) != 0:
                raise ServerMissing(
                    f"{Path(argv[0]).name} failed: {self.last_words()} (all of it: {self.log})"
                )
        finally:
            self.kill()

    async def stop(self, timeout: float) -> None:
        """Ask for a clean end, repeat the question each second, and kill after `timeout` seconds."""
        try:
            deadline = time.monotonic() + timeout
            while self.alive and time.monotonic() < deadline:
                self.send(self._stop_signal)  # Valkey ignores one that comes during its first rewrite
                await self.wait(min(1.0, timeout))
        finally:
            self.kill()

    def kill(self) -> None:
        """End it now, whatever it does; returns when it is gone."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)  # with the helpers that it forked
            self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal if it still runs."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def last_words(self) -> str:
        """The last line of the log."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - 4096))
            lines = log.read().decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return "it said nothing"

    def rotate_log(self) -> None:
        """Turn the log over when it is too long; the server writes on in append mode."""
        with contextlib.suppress(OSError):
            if self.log.stat().st_size > LOG_BYTES:
                self.log.with_suffix(".log.1").write_bytes(self.log.read_bytes())
                os.truncate(self.log, 0)

    async def _lock_pid_file(self) -> int:
        """The pid file, open and locked: nothing of an earlier server lives any more."""
        descriptor = os.open(self._pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await self._outlive_predecessor(descriptor)
            os.ftruncate(descriptor, 0)  # a dead server's number may be another's by now
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    async def _outlive_predecessor(self, descriptor: int) -> None:
        """Lock the pid file; whatever holds it is asked to stop, then killed.

        We hold the folder, so whoever started that server is gone and nobody needs it.
        """
        started = time.monotonic()
        while not _locked(descriptor):
            waited = time.monotonic() - started
            if waited > 2 * PREDECESSOR_SECONDS:
                raise AlreadyRunning(
                    f"an old {self.name} server in {self._home} does not stop; end it by hand"
                )
            _signal_from(descriptor, self._stop_signal if waited < PREDECESSOR_SECONDS else signal.SIGKILL)
            await asyncio.sleep(0.2)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _signal_from(descriptor: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(os.pread(descriptor, 32, 0)), number)


def _plain_environment() -> dict[str, str]:
    """Nothing of ours goes to the servers: no secrets, no language, no PG* variables."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}
