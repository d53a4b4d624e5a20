"""All of taskq on this machine, started in the right order, and stopped without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from services.up.health import Health, ask_health
from services.up.options import UpOptions
from services.up.ports import claim_port
from services.up.process import Lifeline, Role, RoleProcess
from services.up.roles import api_role, demo_role, relay_role, worker_role
from services.up.samples import make_samples
from services.up.supervise import Keeper
from taskq_core.config import Settings, load_settings
from taskq_core.embedded import DataFolder, ServerOptions, Servers
from taskq_core.errors import AlreadyRunning, ConfigError

__all__ = ["System"]

GREEN_S = 60.0  # until /health must be green; later the card says what is missing
DEGRADED_S = 2.0  # how long a start waits for more than that everything answers
_CONFIG_EXIT = 2  # of the command, for usage and configuration
_PREDECESSOR_S = 10.0  # for the API of a predecessor that was killed to give its port back
_ASK_S = 0.05
_LOOK_S = 0.01
_ROLE_STOP_S = 3.0  # for roles that have nothing to finish
_KILL_S = 12.0  # beyond the grace: what a worker may need to kill and settle what overstays


class System:
    """Servers and roles over one data folder. `start`, then `stop`, whatever happened in between."""

    def __init__(self, options: UpOptions, say: Callable[[str], None]) -> None:
        self.options = options
        self._say = say
        self._given = {} if options.data is None else {"home": str(options.data)}
        first = load_settings(self._given, os.environ, Path.cwd(), require=False)
        self.folder = DataFolder(first.home)
        self.settings = first
        self.port = 0
        self.token = ""
        self.health = Health()
        self._servers: Servers | None = None
        self._site_port = 0
        self._hurry = asyncio.Event()
        self._lifeline = Lifeline()
        self._processes: list[RoleProcess] = []
        self._watching: list[asyncio.Task[None]] = []

    @property
    def api(self) -> str:
        """Base address of the API."""
        host = self.options.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether there is anything to stop."""
        return bool(self._processes)

    @property
    def worker(self) -> RoleProcess:
        """The worker's process."""
        return next(process for process in self._processes if process.role.name == "worker")

    # --- starting ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything; returns when /health is green, or after a minute with `health` saying why not.

        Raises ConfigError, DataFolderError, AlreadyRunning, ServerMissing, Unavailable; call `stop` then too.
        """
        self.folder.acquire()
        killed = self.folder.up_file.exists()  # a predecessor whose roles may still be ending
        self.folder.remove_up()  # it would be taken for a running system
        given = load_settings(self._given, os.environ, Path.cwd(), require=False)
        self.port = await self._claim_port(_PREDECESSOR_S if killed else 0.0)
        samples = asyncio.create_task(asyncio.to_thread(make_samples, self.folder.images))
        imports = asyncio.create_task(asyncio.to_thread(importlib.import_module, "services.up.stores"))
        await self._start_servers(self._with_site(given))
        stores = await imports
        self.token, said = await stores.prepare_stores(self.settings, self.folder)
        for line in said:
            self._say(line)
        self._start_api_and_worker()  # where that was not done early
        await samples
        await self._until_ready()
        self._write_up()

    async def _claim_port(self, patience: float) -> int:
        """The port of the API. Raises as `claim_port`, after `patience` seconds of trying."""
        deadline = time.monotonic() + patience
        while True:
            try:
                return claim_port(self.options.host, self.options.port)
            except AlreadyRunning:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_ASK_S)

    def _with_site(self, given: Settings) -> Settings:
        """Let web.scrape fetch the demonstration's site; the port is kept in mind for later."""
        if not (self.options.demo or sys.stdin.isatty()):
            return given
        self._site_port = claim_port("127.0.0.1", 0)
        allowed = (*given.scrape_allow, f"127.0.0.1:{self._site_port}")
        return msgspec.structs.replace(given, scrape_allow=allowed)

    async def _start_servers(self, given: Settings) -> None:
        """The servers that nobody else runs, and beside them what may wait for them."""
        if given.url and not given.redis_url:
            given = msgspec.structs.replace(given, url="")  # another system's address, of no use here
        wanted = ServerOptions(valkey=not given.redis_url, postgres=not given.database_url)
        if wanted.postgres and self.folder.postgres_major() is None:
            self._say("setting up the database (first start only)")
        servers = self._servers = Servers(self.folder, wanted, notify=self._say)
        async with _started(servers) as starting:
            while not starting.done() and not _addresses_known(servers):
                await asyncio.sleep(_LOOK_S)
            if not starting.done() and wanted.valkey:  # another's is checked before anything uses it
                self.settings = self._complete(given, servers)
                self._start_api_and_worker()
        self.settings = self._complete(given, servers)
        self._watch(servers.supervise())

    def _complete(self, given: Settings, servers: Servers) -> Settings:
        """The settings with the addresses of our own servers in the gaps."""
        return msgspec.structs.replace(
            given,
            redis_url=given.redis_url or servers.redis_url,
            database_url=given.database_url or servers.database_url,
            home=self.folder.path,
        )

    def _start_api_and_worker(self) -> None:
        """Start them unless they were; their imports take longer than everything else."""
        if not self._processes:
            self._start_role(worker_role(self.options, self.settings))
            self._start_role(api_role(self.options, self.settings, self.port))

    def _start_role(self, role: Role) -> None:
        process = RoleProcess(role, self._lifeline, self.folder.path / f"{role.name}.log")
        process.start()
        self._processes.append(process)
        self._watch(Keeper(process, self._say).run())

    def demo_process(self) -> RoleProcess:
        """The demo load, not started."""
        role = demo_role(self.settings, self._site_port)
        return RoleProcess(role, self._lifeline, self.folder.path / "demo.log")

    async def _until_ready(self) -> None:
        """Worker, relay, /health: in the order in which they are needed, not all at once on few cores."""
        deadline = time.monotonic() + GREEN_S
        while not self.worker.output.ready and time.monotonic() < deadline:
            self._refuse_misconfigured()
            await asyncio.sleep(_LOOK_S)
        self._start_role(relay_role(self.settings))
        while time.monotonic() < deadline:
            self.health = await ask_health(self.options.host, self.port, self.token)
            if self.health.status == "ok" and self.worker.output.ready:
                return
            if self.health.status == "degraded" and self.worker.output.ready:
                # All parts answer. What is left, a task that nobody takes for one, a start cannot mend.
                deadline = min(deadline, time.monotonic() + DEGRADED_S)
            await asyncio.sleep(_ASK_S)
        if not self.worker.output.ready:
            self.health = Health(checks={"verdict": "the worker does not start; see worker.log"})

    def _refuse_misconfigured(self) -> None:
        """A role that refuses its settings will not take them the next time either. Raises ConfigError."""
        for process in self._processes:
            if process.exit_code == _CONFIG_EXIT:
                raise ConfigError(f"{process.role.name}: {process.output.last_words()}")

    def _write_up(self) -> None:
        self.folder.write_up(
            {
                "api": self.api,
                "dashboard": None,
                "dashboard_login": None,
                "token_file": None if self.options.no_auth else str(self.folder.token_file),
                "pid": os.getpid(),
                "redis_url": self.settings.redis_url,
                "database_url": self.settings.database_url,
            }
        )

    def _watch(self, work: Coroutine[Any, Any, None]) -> None:
        self._watching.append(asyncio.create_task(work))

    # --- stopping ---------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Drain the worker, end the roles, stop the servers; leaves no process."""
        if self.folder.claimed:  # else another one's system runs here, and stays
            self.folder.remove_up()
        await _end(self._watching)
        try:
            await self._drain()
        finally:
            for process in self._processes:
                process.kill()
            await self._stop_servers()
            self._lifeline.close()
            self.folder.release()

    def hurry(self) -> None:
        """Have `stop` wait for nothing that still runs; the servers are stopped in order all the same."""
        self._hurry.set()

    async def _drain(self) -> None:
        """The worker gets its grace; the API answers meanwhile, and the relay carries what that brings."""
        patience = {"worker": self.options.grace + _KILL_S, "api": _ROLE_STOP_S, "relay": _ROLE_STOP_S}
        for name, seconds in patience.items():
            for process in self._processes:
                if process.role.name == name:
                    process.send(signal.SIGTERM)
                    if not await process.wait(seconds, self._hurry) and not self._hurry.is_set():
                        self._say(f"{name} did not end in {seconds:g} s; killing it")

    async def _stop_servers(self) -> None:
        if self._servers is not None:
            await self._servers.stop()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _started(servers: Servers) -> AsyncGenerator[asyncio.Task[None]]:
    """Start the servers while the body runs; at its end they have started, or nothing of them goes on."""
    starting = asyncio.create_task(servers.start())
    try:
        yield starting
        await starting
    finally:
        starting.cancel()
        await asyncio.wait({starting})


def _addresses_known(servers: Servers) -> bool:
    """Whether the addresses are final: each server has chosen its program, and with it its place."""
    return all(server is None or server.server for server in (servers.valkey, servers.postgres))
