"""The key `k`: kill a runner, to see that nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from services.up.system import System
from taskq_core.errors import TaskqError

__all__ = ["kill_a_runner"]

_running: set[asyncio.Task[None]] = set()


def kill_a_runner(system: System, say: Callable[[str], None]) -> None:
    """SIGKILL the runner that has the most to do; its supervisor settles what it held and replaces it."""
    task = asyncio.create_task(_kill(system, say))
    _running.add(task)
    task.add_done_callback(_running.discard)


async def _kill(system: System, say: Callable[[str], None]) -> None:
    try:
        found = await _busiest(system)
    except TaskqError as error:
        say(f"no runner was killed: {error}")
        return
    if found is None:
        say("there is no runner to kill now")
        return
    pid, tasks = found
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        say(f"killed runner {pid} with SIGKILL; it held {tasks} tasks, which will run again")


async def _busiest(system: System) -> tuple[int, int] | None:
    """Process id of our busiest runner, and how many tasks it runs."""
    from taskq_core.read.direct import DirectReader  # noqa: PLC0415  # only who presses the key waits for it

    async with await DirectReader.connect(system.settings.redis_url, system.settings.database_url) as reader:
        workers = (await reader.workers()).workers
    ours = [worker for worker in workers if worker.pid == system.worker.pid]
    runners = [runner for worker in ours for runner in worker.runners if runner.pid]
    if not runners:
        return None
    busiest = max(runners, key=lambda runner: runner.tasks or 0)
    return busiest.pid or 0, busiest.tasks or 0
