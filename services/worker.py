"""`taskq worker`: the process of a supervisor. What it does is `taskq_core.worker`'s business."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import msgspec
import setproctitle

from taskq_core.config import Settings
from taskq_core.errors import ConfigError
from taskq_core.log import setup_logging
from taskq_core.worker.config import WorkerConfig
from taskq_core.worker.supervisor import Supervisor

__all__ = ["WorkerFlags", "run_worker"]


class WorkerFlags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line tells a worker."""

    queues: tuple[str, ...] = ()  # empty: those that its tasks name
    processes: int = 1
    concurrency: int = 256
    threads: int = 16
    isolated: int | None = None  # None: as many as there are cores
    imports: tuple[str, ...] = ()
    label: str = ""
    reload: bool = False
    grace: float = 10.0  # seconds


def run_worker(settings: Settings, flags: WorkerFlags) -> int:
    """Run until SIGTERM or SIGINT, a second one ends it at once. Raises ConfigError, Unavailable.

    Ready, it prints `{"ready": "worker"}` on stdout.
    """
    if not settings.redis_url:
        raise ConfigError("the worker needs TASKQ_REDIS_URL; set it")
    if not flags.imports:
        raise ConfigError("the worker has no tasks; name their module with --import, like --import photos")
    setproctitle.setproctitle("taskq worker")
    setup_logging("worker")
    asyncio.run(_run(Supervisor(_config(settings, flags), _announce)))
    return 0


def _announce() -> None:
    sys.stdout.write('{"ready": "worker"}\n')
    sys.stdout.flush()


async def _run(supervisor: Supervisor) -> None:
    stop = asyncio.Event()

    def asked() -> None:
        if stop.is_set():
            supervisor.stop_now()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    await supervisor.run(stop)


def _config(settings: Settings, flags: WorkerFlags) -> WorkerConfig:
    return WorkerConfig(
        redis_url=settings.redis_url,
        modules=flags.imports,
        queues=flags.queues,
        processes=flags.processes,
        concurrency=flags.concurrency,
        threads=flags.threads,
        isolated=flags.isolated or os.cpu_count() or 1,
        lease_s=settings.lease,
        grace_s=flags.grace,
        code_version=settings.release,
        label=flags.label,
        reload=flags.reload,
    )
