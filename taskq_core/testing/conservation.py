"""Nothing is lost, nothing is left: what must hold once a system has come to rest."""

from __future__ import annotations

from typing import Any, cast

from taskq_core.broker.counts import Counts, ledger_of, read_counts
from taskq_core.broker.functions import Broker

__all__ = ["conservation_faults"]


async def conservation_faults(broker: Broker, *, idle: bool = True) -> list[str]:
    """A line for each rule that is broken; empty when all is well.

    Always: every accepted task is alive or has ended, and each queue's tasks are where its books say. `idle`
    asks more: nothing runs, nothing waits.
    """
    counts = await read_counts(broker.redis, broker.keys)
    books = ledger_of(counts)
    faults: list[str] = []
    if books.unexplained:
        sums = f"{books.accepted} accepted, {books.live} live, {books.ended} ended"
        faults.append(f"{books.unexplained} tasks unexplained: {sums}")
    faults += await _lost_entries(broker, counts)
    if idle:
        faults += _left_over(counts)
    return faults


def _left_over(counts: Counts) -> list[str]:
    waiting = {"due": counts.due, "parked": counts.parked}
    faults = [f"{number} tasks are still {place}" for place, number in waiting.items() if number]
    for name, queue in counts.queues.items():
        if queue.ready:
            faults.append(f"queue {name}: {queue.ready} tasks wait or run")
    return faults


async def _lost_entries(broker: Broker, counts: Counts) -> list[str]:
    """A stream entry whose task is gone would be taken for nothing, again and again."""
    faults: list[str] = []
    for queue in counts.queues:
        for stream in ("high", "normal", "low", "solo"):
            entries = cast(
                "list[Any]", await broker.redis.xrange(broker.keys.ready(queue, stream), count=1000)
            )
            for _, fields in entries:
                task_id = fields[b"t"].decode()
                if not await broker.redis.exists(broker.keys.task(task_id)):
                    faults.append(f"queue {queue}: the entry of {task_id} has no task")
    return faults
