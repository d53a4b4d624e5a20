"""Duties of housekeeping: say that this worker lives, unpark, forget consumers of the dead."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec

from taskq_core.broker.functions import Broker
from taskq_core.broker.keys import WORKERS, worker_key
from taskq_core.worker.child import RunnerChild
from taskq_core.worker.config import WorkerConfig

__all__ = ["Gardener", "Registrar", "Unparker"]

Children = Callable[[], list[RunnerChild]]
EXPIRES_S = 30


class Registrar:
    """Writes what this worker is and does, for everyone who looks."""

    REST_S = 2.0

    def __init__(self, broker: Broker, config: WorkerConfig, worker_id: str, children: Children) -> None:
        self._broker = broker
        self._config = config
        self._id = worker_id
        self._children = children
        self._started_at = 0
        self.state = "running"

    async def step(self) -> float:
        """Say it once."""
        seconds, micros = await self._broker.redis.time()
        self._broker.clock.set(seconds, micros)
        now = self._broker.clock.now_ms()
        self._started_at = self._started_at or now
        text = msgspec.json.encode(self._describe(now))
        async with self._broker.redis.pipeline(transaction=False) as pipe:
            pipe.hset(worker_key(self._id), "v", text)
            pipe.expire(worker_key(self._id), EXPIRES_S)
            pipe.zadd(WORKERS, {self._id: now})
            pipe.zremrangebyscore(WORKERS, "-inf", now - EXPIRES_S * 1000)
            await pipe.execute()
        return self.REST_S

    def _describe(self, now: int) -> dict[str, Any]:
        children = self._children()
        queues = sorted({queue for child in children for queue in child.ready.queues})
        runners = [
            {
                "pid": child.pid,
                "rss": _rss(child.pid),
                "tasks": sum(1 for _ in child.slots.taken()),
                "owner": child.owner,
                "loop_lag_s": child.slots.lag / 1e9,
            }
            for child in children
        ]
        return {
            "id": self._id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started_at": self._started_at,
            "seen_at": now,
            "queues": queues,
            "slots": sum(child.slots.size for child in children if not child.solo),
            "busy": sum(sum(1 for _ in child.slots.taken()) for child in children),
            "runners": runners,
            "code_version": self._config.code_version,
            "state": self.state,
            "label": self._config.label,
        }

    async def remove(self) -> None:
        """This worker is gone, in order."""
        await self._broker.redis.delete(worker_key(self._id))
        await self._broker.redis.zrem(WORKERS, self._id)


def _rss(pid: int) -> int | None:
    """Resident bytes of a process; None where the system does not tell."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class Unparker:
    """Gives parked tasks back to their line when a runner of this worker knows their name."""

    REST_S = 1.0

    def __init__(self, broker: Broker, children: Children) -> None:
        self._broker = broker
        self._children = children

    async def step(self) -> float:
        """Unpark once."""
        children = self._children()
        names = sorted({name for child in children for name in child.ready.names})
        queues = sorted({queue for child in children for queue in child.ready.queues})
        if names:
            await self._broker.unpark(names, queues)
        return self.REST_S


class Gardener:
    """Forgets consumers that hold nothing and whose worker is not heard of any more."""

    REST_S = 60.0
    IDLE_MS = 10 * 60_000

    def __init__(self, broker: Broker, queues: Callable[[], list[str]]) -> None:
        self._broker = broker
        self._queues = queues

    async def step(self) -> float:
        """Look once."""
        await self._broker.gc_consumer(self._queues(), self.IDLE_MS, await self._living())
        return self.REST_S

    async def _living(self) -> list[str]:
        redis = self._broker.redis
        ids = cast("list[bytes]", await redis.zrange(WORKERS, 0, -1))
        owners: list[str] = []
        for worker_id in ids:
            raw = await redis.hget(worker_key(worker_id.decode()), "v")
            if raw:
                owners += [runner["owner"] for runner in msgspec.json.decode(raw)["runners"]]
        return owners
