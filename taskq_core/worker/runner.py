"""A runner: the child process that takes, runs and settles tasks by itself.

Started by a supervisor as ``python -m taskq_core.worker.runner``; its RunnerConfig comes as JSON in
TASKQ_RUNNER. It ends when it is drained, when its supervisor is gone, or by a signal.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import setproctitle
from redis.exceptions import RedisError

from taskq_core.broker.functions import Broker
from taskq_core.catalog import register
from taskq_core.clock import monotonic_ns
from taskq_core.errors import TaskqError
from taskq_core.log import setup_logging
from taskq_core.tasks import Task
from taskq_core.worker.config import RunnerConfig
from taskq_core.worker.control import Line, Message, Ready
from taskq_core.worker.desk import Desk
from taskq_core.worker.failure import readable
from taskq_core.worker.isolated import IsolatedPool
from taskq_core.worker.lanes import Lane, Waker
from taskq_core.worker.loading import load_tasks, user_files
from taskq_core.worker.process import die_with_parent, ignore
from taskq_core.worker.progress import ProgressBook
from taskq_core.worker.reload import changed_at
from taskq_core.worker.run import Attempts
from taskq_core.worker.slots import SlotTable

__all__ = ["main"]

LANES = 2
TICK_S = 0.25
logger = logging.getLogger("taskq.runner")


class Runner:
    """Everything of one runner process, put together."""

    def __init__(
        self, config: RunnerConfig, tasks: dict[str, Task[..., Any]], broker: Broker, line: Line
    ) -> None:
        worker = config.worker
        self._config = config
        self._line = line
        self._broker = broker
        queues = list(worker.queues) or sorted({task.queue for task in tasks.values()})
        capacity = [1, 0, 0] if config.solo else [worker.concurrency, worker.threads, worker.isolated]
        self.desk = Desk(
            config.owner,
            worker.code_version,
            SlotTable.attach(config.slots_fd),
            tasks,
            queues,
            capacity,
            solo=config.solo,
        )
        self._pool = IsolatedPool(worker, 1 if config.solo else worker.isolated)
        self._progress = ProgressBook(config.owner, broker)
        self._attempts = Attempts(
            self.desk, self._pool, 1 if config.solo else worker.threads, self._progress, worker.kill_grace_s
        )
        if any(task.kind == "isolated" for task in tasks.values()):
            self._pool.warm()

    async def run(self) -> None:
        """Work until drained, or until the supervisor is gone."""
        lease_s = self._config.worker.lease_s
        connections = [await self._broker.fork(name="taskq runner") for _ in range(LANES)]
        for connection in connections:
            connection.patience = 0.0  # a lane asks for its own again before it takes more
        lanes = [
            asyncio.ensure_future(Lane(self.desk, self._attempts, connection, lease_s).run())
            for connection in connections
        ]
        helpers = [
            self._background(Waker(self.desk, self._broker, self._broker.url).run()),
            self._background(self._tick()),
            self._background(self._listen()),
        ]
        try:
            await asyncio.gather(*lanes)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._pool.close()
            self._attempts.close()
            for connection in connections:
                await connection.close()

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(_die_with_it)
        return task

    # --- being told

    async def _listen(self) -> None:
        while (message := await self._line.receive()) is not None:
            if message.op == "drain":
                self.drain(message.grace_s)
            elif message.op in {"cancel", "lost"}:
                self._stop_all(message.ids, message.op)
            elif message.op == "poke":
                self.desk.hungry.clear()
                self.desk.signal.set()
        # The supervisor is gone: nobody renews these leases. What runs will be found and run again.
        os._exit(1)

    def _stop_all(self, ids: list[str], why: str) -> None:
        for task_id in ids:
            active = self.desk.active.get(task_id)
            if active is not None:
                self._attempts.stop(active, why)

    def drain(self, grace_s: float) -> None:
        """Take nothing more; let what runs finish within the grace, then give it back."""
        if not self.desk.draining:
            self.desk.draining = True
            self.desk.hungry.clear()
            self.desk.signal.set()
        asyncio.get_running_loop().call_later(grace_s, self._stop_all_active, "drain")

    def _stop_all_active(self, why: str) -> None:
        for active in list(self.desk.active.values()):
            self._attempts.stop(active, why)

    # --- the clock

    async def _tick(self) -> None:
        """Progress goes out; a process that was stopped for most of a lease gives its tasks up."""
        doubtful = int(self._config.worker.lease_s * 1e9 * 2 / 3)
        last = monotonic_ns()
        while True:
            await asyncio.sleep(TICK_S)
            now = monotonic_ns()
            self.desk.table.set_lag(max(0, now - last - int(TICK_S * 1e9)))
            if now - last > doubtful:
                logger.warning(
                    "this process was stopped for %.0f s: giving up what it ran", (now - last) / 1e9
                )
                self._stop_all_active("doubt")
            try:
                await self._progress.send()
            except (TaskqError, RedisError, OSError) as error:
                logger.warning("progress was not sent: %s", error)
            last = monotonic_ns()  # after the send: a slow server is no stopped process


def _die_with_it(task: asyncio.Task[None]) -> None:
    """A helper that fails is a defect of ours: better a crash that is seen than a runner that is deaf."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("runner helper failed", exc_info=error)
        os._exit(70)


async def _connected(config: RunnerConfig) -> None:
    line = await Line.of(socket.socket(fileno=config.control_fd))
    try:
        tasks = load_tasks(config.worker.modules)
        broker = await Broker.connect(config.worker.redis_url, name="taskq runner")
    except Exception as error:
        why = str(error) if isinstance(error, TaskqError) else readable(error)
        line.send(Message("failed", why=why))
        await asyncio.sleep(0)
        raise SystemExit(3) from error
    async with broker:
        runner = Runner(config, tasks, broker, line)
        await broker.ensure(runner.desk.queues)
        try:
            await register(broker.redis, tasks.values(), config.worker.code_version, broker.clock.now_ms())
        except (
            TaskqError,
            RedisError,
        ) as error:  # a full server refuses it, and must be drained all the same
            logger.warning("the catalog was not written: %s", error)
        files = {str(file): changed_at(str(file)) for file in user_files(Path.cwd())}
        ready = Ready(runner.desk.queues, sorted(tasks), files if config.worker.reload else {})
        line.send(Message("ready", body=msgspec.json.encode(ready).decode()))
        await runner.run()
    line.close()


def main() -> None:
    """Entry of the process."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        ignore(number)  # the supervisor decides, over the line
    setproctitle.setproctitle("taskq runner")
    setup_logging("runner")
    config = msgspec.json.decode(os.environ.pop("TASKQ_RUNNER"), type=RunnerConfig)
    faulthandler.enable(config.stacks_fd)
    # Not uvloop: it holds a write back until the end of the loop's turn, so that the lanes' requests reach
    # Redis together and it idles while both answers are worked on (27 k tasks/s against 37 k).
    try:
        asyncio.run(_connected(config))
    except Exception:
        logger.critical("runner failed", exc_info=True)
        os._exit(70)  # without waiting for threads of the user's code, whose leases would be kept alive


if __name__ == "__main__":
    sys.exit(main())
