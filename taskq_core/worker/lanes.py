"""A runner's traffic with Redis: two lanes that settle and take, and a waker that waits for work.

A lane settles what has ended and takes what there is room for in one call; two of them keep Redis and the
code busy at the same time. When the queues are empty the waker holds a blocking read; what it brings is
claimed by a lane, so that an idle system starts a task within two round trips.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any, cast

from redis.exceptions import RedisError, ResponseError

from taskq_core.broker.functions import CALL_TASKS, Broker
from taskq_core.broker.keys import GROUP
from taskq_core.broker.protocol import Finish, Held, Op, Taken
from taskq_core.broker.redis import make_redis
from taskq_core.clock import monotonic_ns
from taskq_core.errors import TaskqError
from taskq_core.worker.desk import Active, Desk
from taskq_core.worker.run import Attempts

__all__ = ["Lane", "Waker"]

logger = logging.getLogger("taskq.runner")

BLOCK_MS = 2000
FINISH_BYTES = 1 << 20


class Lane:
    """Settle and take, in turn, on a connection of its own."""

    def __init__(self, desk: Desk, attempts: Attempts, broker: Broker, lease_s: float) -> None:
        self._desk = desk
        self._attempts = attempts
        self._broker = broker
        self._stale_ns = int(
            lease_s * 1e9 / 4
        )  # before the second look for orphans, a quarter of a lease each
        self._pause = 0.05

    async def run(self) -> None:
        """Until the desk is drained and all is settled."""
        desk = self._desk
        while not (desk.draining and not desk.active and not desk.done):
            if not await self._turn():
                desk.signal.clear()
                await desk.signal.wait()

    async def _turn(self) -> bool:
        """One round trip; False when there is nothing to do until the signal."""
        desk = self._desk
        taking = not desk.draining and desk.has_room() and (not desk.hungry.is_set() or bool(desk.held))
        if not desk.done and not taking and not desk.held:
            return False
        settling = self._next_finishes()
        budgets = desk.reserve() if not desk.draining else [0] * len(desk.free)
        asked = monotonic_ns()
        try:
            taken = await self._broker.settle_take(desk.want(budgets), [finish for _, finish in settling])
        except (TaskqError, RedisError, OSError) as error:
            await self._failed(settling, budgets, error)
            return True
        self._pause = 0.05
        desk.acknowledged(settling)
        self._start(taken, budgets, asked)
        if desk.draining:
            desk.signal.set()  # the other lane may wait for what this one has just settled
        return True

    def _next_finishes(self) -> list[tuple[Active | None, Finish]]:
        """At most a call's worth of what has ended."""
        done, size, count = self._desk.done, 0, 0
        for _, finish in done[:CALL_TASKS]:
            size += len(finish.body) + 200
            count += 1
            if size > FINISH_BYTES:
                break
        part = done[:count]
        del done[:count]
        return part

    def _start(self, taken: Taken, budgets: list[int], asked: int) -> None:
        desk = self._desk
        desk.give_up(budgets)
        stale = monotonic_ns() - asked > self._stale_ns
        for claim, payload in zip(taken.claims, taken.payloads, strict=True):
            if stale or desk.draining:
                # The lease may have run out while the answer was on its way.
                reason = "the answer came late" if stale else "drain"
                finish = Finish(claim.task_id, claim.entry, claim.epoch, Op.RELEASE, reason=reason)
                desk.refuse(finish)
            else:
                self._attempts.start(claim, payload)
        if taken.claims:
            desk.served(taken.claims[-1].queue)
            desk.hungry.clear()
        elif desk.asked_less_than_room(budgets):
            desk.hungry.clear()
        elif not desk.held and not desk.draining:
            desk.hungry.set()

    async def _failed(
        self, settling: list[tuple[Active | None, Finish]], budgets: list[int], error: Exception
    ) -> None:
        desk = self._desk
        desk.give_up(budgets)
        desk.done[:0] = settling
        desk.doubt = True
        logger.warning("Redis: %s; trying again", error)
        await asyncio.sleep(random.uniform(0, self._pause))
        self._pause = min(self._pause * 2, 5.0)


class Waker:
    """The blocking read: listens only while the queues are known to be empty."""

    def __init__(self, desk: Desk, broker: Broker, url: str) -> None:
        self._desk = desk
        self._broker = broker
        self._url = url

    async def run(self) -> None:
        """Until cancelled."""
        client = make_redis(self._url, timeout=BLOCK_MS / 1000 + 5, single=True, name="taskq wake")
        pause = 0.05
        try:
            while True:
                await self._desk.hungry.wait()
                try:
                    await self._listen(client)
                    pause = 0.05
                except (RedisError, OSError) as error:
                    logger.warning("Redis: %s; listening again", error)
                    await self._repair(error)
                    await asyncio.sleep(random.uniform(0, pause))
                    pause = min(pause * 2, 5.0)
        finally:
            await client.aclose()

    async def _repair(self, error: Exception) -> None:
        self._desk.doubt = True
        if isinstance(error, ResponseError) and "NOGROUP" in str(error):
            await self._broker.ensure(self._desk.queues)

    async def _listen(self, client: Any) -> None:
        pairs = self._desk.readable()
        if not pairs:
            self._desk.hungry.clear()
            return
        keys = self._broker.keys
        names = {keys.ready(queue, stream).encode(): (queue, stream) for queue, stream in pairs}
        reply = await client.execute_command(
            "XREADGROUP",
            "GROUP",
            GROUP,
            self._desk.owner,
            "COUNT",
            1,
            "BLOCK",
            BLOCK_MS,
            "STREAMS",
            *names,
            *(">" for _ in names),
        )
        for key, entries in cast("list[Any]", reply or []):
            queue, stream = names[key]
            for entry, fields in entries:
                self._desk.held.append(Held(queue, stream, entry.decode(), fields[b"t"].decode()))
        # Also after a silent two seconds: what was given back does not wake a blocking read.
        self._desk.hungry.clear()
        self._desk.signal.set()
