"""Real servers for tests: the embedded ones, and Debian's, each in a folder of its own.

Nearly all is synchronous, so that fixtures of any scope can use it; call it from the main thread, outside a
running loop: the servers end with the thread that started them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Coroutine, Generator, Mapping
from pathlib import Path

import pytest

from taskq_core.embedded import DataFolder, FoundServer, ServerOptions, Servers
from taskq_core.embedded.find import ask_version
from taskq_core.embedded.postgres import Postgres
from taskq_core.embedded.valkey import Valkey
from tests.support.wait import eventually_sync


class ServerHandle:
    """One running server that a test may treat badly."""

    def __init__(self, server: Valkey | Postgres, folder: DataFolder) -> None:
        self._server = server
        self._folder = folder
        self.url = server.url

    @property
    def pid(self) -> int:
        """Process id of the server."""
        pid = self._server.child.pid
        assert pid is not None
        return pid

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version."""
        assert self._server.server is not None
        return self._server.server.version

    def kill(self) -> None:
        """SIGKILL, as a crash of the machine would; returns when it is gone."""
        self._server.child.kill()

    def restart(self) -> None:
        """Start it again on its data and its address (stopped first if it runs)."""
        _run(self.restart_async())

    async def restart_async(self) -> None:
        """`restart` for a test that has a loop."""
        await self._server.stop()
        await self._server.start()

    def pause(self) -> None:
        """SIGSTOP: it accepts connections and answers nothing."""
        self._server.child.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._server.child.send(signal.SIGCONT)

    def stop(self) -> None:
        """Stop it for good and let its folder go."""
        self.resume()
        _run(self._server.stop())
        self._folder.release()


class RunningServers:
    """Both embedded servers; `redis` and `postgres` are handles for single ones."""

    def __init__(self, servers: Servers) -> None:
        assert servers.valkey is not None
        assert servers.postgres is not None
        self._servers = servers
        self.redis_url = servers.redis_url
        self.database_url = servers.database_url
        self.redis = ServerHandle(servers.valkey, servers.folder)
        self.postgres = ServerHandle(servers.postgres, servers.folder)

    def stop(self) -> None:
        """Stop both and let the folder go."""
        self.redis.resume()
        self.postgres.resume()
        _run(self._servers.stop())


def start_servers(folder: Path, options: ServerOptions | None = None) -> RunningServers:
    """Start the embedded Valkey and PostgreSQL over a folder; the caller stops them."""
    servers = Servers(folder, options)
    _run(servers.start())
    return RunningServers(servers)


@contextlib.contextmanager
def running_servers(folder: Path, options: ServerOptions | None = None) -> Generator[RunningServers]:
    """Both embedded servers for the length of a `with`."""
    running = start_servers(folder, options)
    try:
        yield running
    finally:
        running.stop()


def start_redis(
    folder: Path, *, program: str | Path = "redis-server", settings: Mapping[str, str] | None = None
) -> ServerHandle:
    """Start Debian's Redis (or another program) on a free loopback port; skips where it is missing."""
    options = ServerOptions(tcp=True, valkey_settings=dict(settings or {}))
    home = DataFolder(folder)
    return _started(Valkey(home, options, _program(program)), home)


def start_postgres(
    folder: Path, *, program: str | Path | None = None, settings: Mapping[str, str] | None = None
) -> ServerHandle:
    """Start Debian's PostgreSQL (or another program) on a free loopback port; skips where it is missing."""
    options = ServerOptions(tcp=True, postgres_settings=dict(settings or {}))
    home = DataFolder(folder)
    return _started(Postgres(home, options, _program(program or _debians_postgres())), home)


def process_gone(pid: int) -> bool:
    """Whether no process of this id is left (a zombie counts as gone)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return False
        return True
    return state in {"Z", "X"}


def await_gone(*pids: int) -> None:
    """Wait until none of these processes is left."""
    for pid in pids:
        eventually_sync(lambda pid=pid: process_gone(pid), f"process {pid} to be gone")


def _started(server: Valkey | Postgres, home: DataFolder) -> ServerHandle:
    home.acquire()
    try:
        _run(server.start())
    except BaseException:
        home.release()
        raise
    return ServerHandle(server, home)


def _debians_postgres() -> str:
    """The newest PostgreSQL in Debian's versioned folders; else whatever is on PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)
    return str(found[0]) if found else "postgres"


def _program(name: str | Path) -> FoundServer:
    """The program of this name; a missing one skips the test at home and fails it in CI."""
    path = shutil.which(name)
    found = ask_version(Path(path)) if path else None
    if found is None:
        reason = f"{name} is not on this machine (see tests/debian.txt)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def _run[T](work: Coroutine[object, object, T]) -> T:
    return asyncio.run(work)
