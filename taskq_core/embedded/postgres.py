"""The embedded PostgreSQL: first set-up, start, readiness, stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from urllib.parse import quote

import psycopg

from taskq_core.embedded.find import FoundServer, find_postgres
from taskq_core.embedded.folder import DataFolder, write_private
from taskq_core.embedded.options import ServerOptions
from taskq_core.embedded.ports import free_port, socket_fits
from taskq_core.embedded.process import Child
from taskq_core.errors import DataFolderError, ServerMissing

USER = "taskq"
DATABASE = "taskq"

_SOCKET_PORT = 5432  # only a part of the socket's name
_BUILTIN_LOCALE_SINCE = 17
_IO_METHOD_SINCE = 18
_INITDB_SECONDS = 120.0
_ANSWER_SECONDS = 5
_POLL = 0.02

_SETTINGS = {
    "shared_buffers": "64MB",
    "max_connections": "60",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",  # no replicas; backups are dumps
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "max_wal_size": "512MB",
    "jit": "off",  # costs more than it gives on short queries
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "logging_collector": "off",  # our own log, see process.Child
    "cluster_name": "taskq",
}


class Postgres:
    """One PostgreSQL over a data folder that the caller holds."""

    label = "PostgreSQL"

    def __init__(
        self, folder: DataFolder, options: ServerOptions, program: FoundServer | None = None
    ) -> None:
        """With `program`, that one instead of the first that `find_postgres` knows."""
        self._folder = folder
        self._options = options
        self._sockets = folder.run / "pg"
        self._port = 0
        self._password = ""
        self._program = program
        self._server: FoundServer | None = None
        # SIGINT: a fast shutdown, which ends the sessions and writes a checkpoint.
        self.child = Child("postgres", folder.path, stop_signal=signal.SIGINT)

    @property
    def url(self) -> str:
        """Where it answers; the same over restarts."""
        return self._url(DATABASE)

    @property
    def server(self) -> FoundServer | None:
        """The program in use, None before the first start."""
        return self._server

    async def start(self) -> None:
        """Set up on the first start, then start and wait until it answers queries.

        Raises `ServerMissing` or `DataFolderError`.
        """
        if self._server is None:
            self._server = await self._choose_server()
        if self._folder.postgres_major() is None:
            await self._initialise(self._server)
        self._folder.note_postgres(self._server)
        self._forget_the_dead()
        await self.child.start(self._command(self._server), unprivileged=True, own=self._own())
        await self._ready()

    async def stop(self) -> None:
        """Stop it cleanly; killed if it takes longer than the options allow."""
        await self.child.stop(self._options.stop_timeout)

    # --- set-up -----------------------------------------------------------------------------------------

    async def _choose_server(self) -> FoundServer:
        self._password = self._folder.secrets().postgres
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        if self._options.tcp or not socket_fits(self._sockets / f".s.PGSQL.{_SOCKET_PORT}"):
            self._port = free_port()
        major = self._folder.postgres_major()
        if self._program is not None and major in {None, self._program.major}:
            return self._program
        try:
            return await asyncio.to_thread(find_postgres, major)
        except ServerMissing as error:
            if major is None:
                raise
            raise DataFolderError(
                f"{self._folder.postgres} belongs to PostgreSQL {major}, which is not on this machine; "
                "install it, or restore a backup (taskq restore-backup) into a new folder given with --data"
            ) from error

    async def _initialise(self, server: FoundServer) -> None:
        """Make the cluster beside its place and move it in whole: no start leaves half of it."""
        fresh = self._folder.path / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password = fresh.with_name("postgres.new.pw")
        write_private(password, self._password.encode() + b"\n")
        try:
            initdb = Child("initdb", self._folder.path, stop_signal=signal.SIGINT)
            await initdb.run(
                _initdb_command(server, fresh, password),
                timeout=_INITDB_SECONDS,
                unprivileged=True,
                own=[fresh, password],
            )
        finally:
            password.unlink()
        fresh.rename(self._folder.postgres)

    def _forget_the_dead(self) -> None:
        """Remove what a killed server left; its pid file's lock told that no process of it lives."""
        for stale in (
            self._folder.postgres / "postmaster.pid",
            self._sockets / f".s.PGSQL.{_SOCKET_PORT}",
            self._sockets / f".s.PGSQL.{_SOCKET_PORT}.lock",
        ):
            stale.unlink(missing_ok=True)

    def _own(self) -> list[Path]:
        return [self._folder.postgres, self._sockets]

    def _command(self, server: FoundServer) -> list[str]:
        sockets = os.fspath(self._sockets).replace('"', '""')
        place = {
            "listen_addresses": "127.0.0.1" if self._port else "",
            "port": str(self._port or _SOCKET_PORT),
            "unix_socket_directories": "" if self._port else f'"{sockets}"',
            "unix_socket_permissions": "0700",
        }
        if server.major >= _IO_METHOD_SINCE:
            place["io_method"] = "sync"  # no worker processes for reads that are mostly cached
        settings = _SETTINGS | place | dict(self._options.postgres_settings)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(server.path), "-D", str(self._folder.postgres), *options]

    # --- readiness --------------------------------------------------------------------------------------

    def _url(self, database: str) -> str:
        secret = quote(self._password, safe="")
        if self._port:
            return f"postgresql://{USER}:{secret}@127.0.0.1:{self._port}/{database}?sslmode=disable"
        host = quote(os.fspath(self._sockets), safe="")
        return f"postgresql://{USER}:{secret}@/{database}?host={host}&port={_SOCKET_PORT}"

    async def _ready(self) -> None:
        deadline = time.monotonic() + self._options.start_timeout
        reason = ""
        while time.monotonic() < deadline and self.child.alive:
            try:
                await self._ensure_database()
            except psycopg.OperationalError as error:
                reason = str(error).strip().splitlines()[-1]
            else:
                return
            await asyncio.sleep(_POLL)
        if not self.child.alive:
            reason = self.child.last_words()
        self.child.kill()
        raise ServerMissing(f"PostgreSQL did not start: {reason} (all of it: {self.child.log})")

    async def _ensure_database(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._url("postgres"), autocommit=True, connect_timeout=_ANSWER_SECONDS
        )
        async with connection:
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
            if await found.fetchone() is None:
                with contextlib.suppress(psycopg.errors.DuplicateDatabase):
                    await connection.execute("CREATE DATABASE taskq TEMPLATE template0 ENCODING 'UTF8'")


def _initdb_command(server: FoundServer, folder: Path, password: Path) -> list[str]:
    locale = ["--locale=C"]
    if server.major >= _BUILTIN_LOCALE_SINCE:  # the same order of texts on every machine
        locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return [
        str(server.path.with_name("initdb")),
        f"--pgdata={folder}",
        f"--username={USER}",
        f"--pwfile={password}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--data-checksums",
        "--no-sync",  # the server syncs at its first checkpoint; an interrupted set-up is begun anew
        *locale,
    ]
