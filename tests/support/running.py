"""A worker by hand: takes and settles through the broker, so that a test decides how each task ends."""

from __future__ import annotations

from taskq_core.broker.functions import Broker
from taskq_core.broker.protocol import Claim, Finish, Op, QueueWant, TakeWant


async def take(broker: Broker, queue: str, most: int = 100) -> list[Claim]:
    """Claim what waits in a queue."""
    await broker.ensure([queue])
    want = TakeWant(
        owner="by-hand",
        code_version="1",
        budgets=[most, 0, 0],
        queues=[QueueWant(queue, [1])],
        streams=["high", "normal", "low"],
    )
    return (await broker.take(want)).claims


async def settle(broker: Broker, claim: Claim, op: Op = Op.OK, body: str = "null") -> str:
    """End an attempt; answers the task's state after it."""
    finish = Finish(claim.task_id, claim.entry, claim.epoch, op, body=body)
    (settled,) = await broker.settle("by-hand", [finish])
    return settled.state
