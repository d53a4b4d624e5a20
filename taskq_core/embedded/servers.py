"""Both embedded servers as one thing: start, watch, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from taskq_core.embedded.folder import DataFolder
from taskq_core.embedded.options import ServerOptions
from taskq_core.embedded.postgres import Postgres
from taskq_core.embedded.process import Child
from taskq_core.embedded.valkey import Valkey
from taskq_core.errors import ConfigError, TaskqError

FIRST_PAUSE = 0.1
"""Seconds before the first restart of a server that died; doubled by each that follows, up to the longest."""
LONGEST_PAUSE = 5.0
STEADY_SECONDS = 30.0
"""A server that lived this long has recovered: its next death starts again with the first pause."""

_WATCH_SECONDS = 0.1

_log = logging.getLogger("taskq.embedded")


class Server(Protocol):
    """What both servers have in common."""

    label: str
    child: Child

    @property
    def url(self) -> str:
        """Where it answers."""
        ...

    async def start(self) -> None:
        """Start and wait until it answers."""
        ...

    async def stop(self) -> None:
        """Stop cleanly, or kill."""
        ...


class Servers:
    """Valkey and PostgreSQL over one data folder, held for as long as they run.

    ``async with Servers(folder) as servers:`` starts both, restarts one that dies, and stops both at the end.
    `notify` gets one line for people at each event (a death, a restart, one that cannot stay up).
    Use it from a thread that lives as long as the program: on Linux the servers end with that thread.
    """

    def __init__(
        self,
        folder: DataFolder | Path | str,
        options: ServerOptions | None = None,
        *,
        notify: Callable[[str], None] = _log.warning,
    ) -> None:
        self.folder = folder if isinstance(folder, DataFolder) else DataFolder(folder)
        self._options = options or ServerOptions()
        self._notify = notify
        self._claimed_here = False
        self._watcher: asyncio.Task[None] | None = None
        self._valkey = Valkey(self.folder, self._options) if self._options.valkey else None
        self._postgres = Postgres(self.folder, self._options) if self._options.postgres else None

    @property
    def redis_url(self) -> str:
        """Where Valkey answers, from `start` on; a `ConfigError` if the options left it out."""
        return _url_of(self._valkey, "Valkey")

    @property
    def database_url(self) -> str:
        """Where PostgreSQL answers, from `start` on; a `ConfigError` if the options left it out."""
        return _url_of(self._postgres, "PostgreSQL")

    @property
    def valkey(self) -> Valkey | None:
        """Valkey, None if the options left it out."""
        return self._valkey

    @property
    def postgres(self) -> Postgres | None:
        """PostgreSQL, None if the options left it out."""
        return self._postgres

    async def __aenter__(self) -> Self:
        await self.start()
        self._watcher = asyncio.create_task(self.supervise(), name="embedded servers")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Take the folder and start both at once; returns when both answer.

        Raises `DataFolderError`, `AlreadyRunning` or `ServerMissing`, with nothing left running.
        """
        if not self.folder.claimed:
            self.folder.acquire()
            self._claimed_here = True
        starts = [asyncio.create_task(server.start()) for server in self._all()]
        try:
            await asyncio.gather(*starts)  # not a TaskGroup: callers wait for one error, not for a group
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await self.stop()
            raise

    async def supervise(self) -> None:
        """Watch until cancelled: restart what dies, keep the logs short."""
        await asyncio.gather(*(self._keep_up(server) for server in self._all()))

    async def stop(self) -> None:
        """Stop both at once and give the folder back; leaves no process, also when it is cancelled itself."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        try:
            await asyncio.gather(*(server.stop() for server in self._all()))
        finally:
            for server in self._all():
                server.child.kill()
            if self._claimed_here:
                self.folder.release()
                self._claimed_here = False

    def _all(self) -> list[Server]:
        return [server for server in (self._valkey, self._postgres) if server is not None]

    async def _keep_up(self, server: Server) -> None:
        pause = FIRST_PAUSE
        since = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            server.child.rotate_log()
            if server.child.alive:
                continue
            if time.monotonic() - since > STEADY_SECONDS:
                pause = FIRST_PAUSE
            if await self._restart(server, pause):
                since = time.monotonic()
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _restart(self, server: Server, pause: float) -> bool:
        """Bring a dead server back after a pause; whether that worked."""
        self._notify(f"{server.label} ended ({_how_it_ended(server.child)}); restarting")
        await asyncio.sleep(pause)
        started = time.monotonic()
        try:
            await server.start()
        except (TaskqError, OSError) as error:
            self._notify(f"{server.label} cannot start, trying again: {error}")
            return False
        self._notify(f"{server.label} is back after {time.monotonic() - started + pause:.1f} s")
        return True


def _url_of(server: Server | None, label: str) -> str:
    if server is None:
        raise ConfigError(f"the embedded {label} was switched off; give its address in the settings")
    return server.url


def _how_it_ended(child: Child) -> str:
    code = child.exit_code
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
