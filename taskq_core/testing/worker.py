"""A worker inside this process: for tests of one's own tasks, and for notebooks.

It takes, runs and settles with the parts of the real runner, so that states, retries and events are the real
ones. What only a process of its own can do is missing: a task that blocks the loop blocks everything, and
one that brings the process down takes the worker with it. Tasks declared later are picked up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

import msgspec
from redis.exceptions import RedisError

from taskq_core.broker.functions import Broker
from taskq_core.broker.keys import WORKERS, worker_key
from taskq_core.catalog import register
from taskq_core.errors import TaskqError
from taskq_core.tasks import Task
from taskq_core.worker.config import WorkerConfig
from taskq_core.worker.desk import Desk
from taskq_core.worker.isolated import IsolatedPool
from taskq_core.worker.lanes import Lane, Waker
from taskq_core.worker.progress import ProgressBook
from taskq_core.worker.run import Attempts
from taskq_core.worker.slots import SlotTable

__all__ = ["LocalWorker"]

LANES = 2
TICK_S = 0.1
SEEN_S = 15  # how long a description is believed without another
_log = logging.getLogger("taskq.testing")


class LocalWorker:
    """Runs the tasks of a mapping (an app's `tasks`) on the event loop that enters it."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        redis_url: str,
        *,
        lease: float = 30.0,
        concurrency: int = 32,
        threads: int = 4,
        isolated: int = 1,
        grace: float = 10.0,
    ) -> None:
        """`lease` must be that of the system; at the end what runs has `grace` to finish (both seconds).

        The rest are tasks at a time, by kind.
        """
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._tasks = tasks
        self._config = WorkerConfig(
            redis_url=redis_url,
            modules=tuple(sorted({task.module for task in tasks.values()} - {"__main__"})),
            concurrency=concurrency,
            threads=threads,
            isolated=isolated,
            lease_s=lease,
            grace_s=grace,
            code_version="local",
        )
        self._bench: _Bench | None = None
        self._old: set[asyncio.Task[None]] = set()
        self._duties: list[asyncio.Task[None]] = []
        self._seen: dict[str, Task[..., Any]] = {}
        self._benches = 0

    async def __aenter__(self) -> Self:
        self._broker = await Broker.connect(self._config.redis_url, name="taskq-local")
        await self._follow_declarations()
        self._duties = [
            asyncio.create_task(self._every(every, duty))
            for every, duty in (
                (TICK_S, self._follow_declarations),
                (TICK_S, self._promote),
                (min(0.5, self._config.lease_s / 4), self._renew),
                (self._config.lease_s / 4, self._reclaim),
                (2.0, self._tell),
            )
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for duty in self._duties:
            duty.cancel()
        await asyncio.gather(*self._duties, return_exceptions=True)
        if self._bench is not None:
            self._retire(self._bench)
        if self._old:
            await asyncio.wait(self._old)
        with contextlib.suppress(RedisError, OSError):
            await self._broker.redis.zrem(WORKERS, self.id)
            await self._broker.redis.delete(worker_key(self.id))
        await self._broker.close()

    # --- declarations

    async def _follow_declarations(self) -> None:
        """Register what is new; a new queue needs a new bench, the old one finishes what it has."""
        if self._seen == self._tasks:
            return
        before = {task.queue for task in self._seen.values()}
        self._seen = dict(self._tasks)
        now = (await self._broker.redis.time())[0] * 1000
        await register(self._broker.redis, self._seen.values(), "local", int(now))
        queues = {task.queue for task in self._seen.values()}
        if queues != before:
            await self._broker.ensure(sorted(queues))
            old, self._bench = self._bench, await self._new_bench(sorted(queues))
            if old is not None:
                self._retire(old)
        await self._broker.unpark(list(self._seen), sorted(queues))

    async def _new_bench(self, queues: list[str]) -> _Bench:
        self._benches += 1
        bench = _Bench(f"{self.id}.{self._benches}", self._tasks, queues, self._broker, self._config)
        await bench.start()
        return bench

    def _retire(self, bench: _Bench) -> None:
        leaving = asyncio.create_task(bench.finish())
        self._old.add(leaving)
        leaving.add_done_callback(self._old.discard)

    # --- duties

    async def _every(self, seconds: float, duty: Any) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await duty()
            except (TaskqError, RedisError, OSError) as error:
                _log.warning("the local worker goes on after: %s", error)

    async def _promote(self) -> None:
        while (await self._broker.promote()).moved:
            pass

    async def _renew(self) -> None:
        if self._bench is not None:
            await self._bench.renew()

    async def _reclaim(self) -> None:
        if self._bench is not None:
            await self._bench.reclaim()

    async def _tell(self) -> None:
        bench = self._bench
        if bench is None:
            return
        seconds, micros = await self._broker.redis.time()
        now = int(seconds) * 1000 + int(micros) // 1000
        said = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "queues": bench.desk.queues,
            "slots": sum(bench.desk.capacity),
            "busy": len(bench.desk.active),
            "code_version": "local",
            "state": "running",
            "runners": [{"pid": os.getpid(), "tasks": len(bench.desk.active)}],
        }
        async with self._broker.redis.pipeline(transaction=True) as pipe:
            pipe.zadd(WORKERS, {self.id: now})
            pipe.hset(worker_key(self.id), "v", msgspec.json.encode(said))
            pipe.expire(worker_key(self.id), SEEN_S)
            await pipe.execute()


class _Bench:
    """One runner's parts, put together for a fixed set of queues."""

    def __init__(
        self,
        owner: str,
        tasks: Mapping[str, Task[..., Any]],
        queues: list[str],
        broker: Broker,
        config: WorkerConfig,
    ) -> None:
        capacity = [config.concurrency, config.threads, config.isolated]
        self._owner = owner
        self._broker = broker
        self._config = config
        self._table = SlotTable.create(sum(capacity))
        self.desk = Desk(owner, config.code_version, self._table, tasks, queues, capacity, solo=False)
        self._pool = IsolatedPool(config, config.isolated)
        self._progress = ProgressBook(owner, broker)
        self._attempts = Attempts(self.desk, self._pool, config.threads, self._progress, config.kill_grace_s)
        self._suspects: list[str] = []
        self._helpers: list[asyncio.Task[None]] = []
        self._lanes: list[asyncio.Task[None]] = []
        self._connections: list[Broker] = []

    async def start(self) -> None:
        """Begin to take."""
        self._connections = [await self._broker.fork(name="taskq-local") for _ in range(LANES)]
        self._lanes = [
            asyncio.create_task(Lane(self.desk, self._attempts, one, self._config.lease_s).run())
            for one in self._connections
        ]
        waker = Waker(self.desk, self._broker, self._config.redis_url)
        self._helpers = [asyncio.create_task(waker.run()), asyncio.create_task(self._send_progress())]

    async def finish(self) -> None:
        """Take nothing more, let what runs finish within the grace, give the rest back."""
        self.desk.draining = True
        self.desk.hungry.clear()
        self.desk.signal.set()
        for helper in self._helpers:
            helper.cancel()
        await asyncio.gather(*self._helpers, return_exceptions=True)
        late = await self._lanes_left(self._lanes, self._config.grace_s)
        if late:
            for active in list(self.desk.active.values()):
                self._attempts.stop(active, "drain")
            late = await self._lanes_left(late, self._config.kill_grace_s)
        for lane in late:  # what does not stop is found by others when its lease has run out
            lane.cancel()
        known = list(self.desk.active)
        with contextlib.suppress(TaskqError, RedisError, OSError):  # what the blocking read still brought
            await self._broker.sweep(self._owner, self.desk.queues, known, ["*"], "drain")
        await self._close()

    async def _lanes_left(
        self, lanes: Iterable[asyncio.Task[None]], seconds: float
    ) -> set[asyncio.Task[None]]:
        """The lanes that have not ended in time. When one ends the others must look again."""
        left, until = set(lanes), time.monotonic() + seconds
        while left and (rest := until - time.monotonic()) > 0:
            _, left = await asyncio.wait(left, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            self.desk.signal.set()
        return left

    async def renew(self) -> None:
        """Keep the leases; tell what was cancelled or lost."""
        leases = [(one.claim.task_id, one.claim.entry, one.claim.epoch) for one in self.desk.active.values()]
        if not leases:
            return
        answer = await self._broker.renew(self._owner, leases)
        for ids, why in ((answer.cancelled, "cancel"), (answer.lost, "lost")):
            for task_id in ids:
                active = self.desk.active.get(task_id)
                if active is not None:
                    self._attempts.stop(active, why)

    async def reclaim(self) -> None:
        """Act on leases of workers that are gone."""
        lease_ms = int(self._config.lease_s * 1000)
        found = await self._broker.reclaim(self.desk.queues, lease_ms, 100, self._suspects)
        self._suspects = found.suspects

    async def _send_progress(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            with contextlib.suppress(TaskqError, RedisError, OSError):
                await self._progress.send()

    async def _close(self) -> None:
        await self._pool.close()
        self._attempts.close()
        for one in self._connections:
            await one.close()
        self._table.close()
