"""What becomes of the tasks of a runner that died: who is to blame, and what is given back.

One attempt was running in the process: it counts as crashed. Several: nobody knows which, none counts, but
each may run only alone from now on, where blame is certain. When the supervisor killed the runner for an
overstayer, that one alone is charged.
"""

from __future__ import annotations

import logging
import random

from taskq_core.broker.functions import Broker
from taskq_core.broker.protocol import Finish, Op
from taskq_core.clock import monotonic_ns
from taskq_core.worker.child import RunnerChild
from taskq_core.worker.failure import describe_text
from taskq_core.worker.process import how_it_died
from taskq_core.worker.slots import RUNNING, Slot

__all__ = ["judge", "settle_dead"]

logger = logging.getLogger("taskq.worker")


def judge(slots: list[Slot], overstayers: set[str], death: str, owner: str, stacks: str = "") -> list[Finish]:
    """The finishes of a dead runner's slots. Pure."""
    running = [slot for slot in slots if slot.state == RUNNING]
    # What ran in the process itself comes first; with nothing there, what ran beside it must have done it.
    suspects = [slot for slot in running if slot.kind != "isolated"] or running
    finishes: list[Finish] = []
    for slot in slots:
        if slot.task_id in overstayers:
            finishes.append(_overstayed(slot, owner))
        elif slot not in suspects:
            finishes.append(_finish(slot, owner, Op.RELEASE, reason="its runner died"))
        elif overstayers:
            finishes.append(
                _finish(slot, owner, Op.INTERRUPT, reason="a neighbour overstayed its time limit")
            )
        else:
            finishes.append(_crashed(slot, owner, death, stacks, alone=len(suspects) == 1))
    return finishes


def _overstayed(slot: Slot, owner: str) -> Finish:
    body = describe_text("TimeLimit", "it ran past its time limit and could only be killed")
    return _finish(slot, owner, Op.FAIL, outcome="timeout", body=body)


def _crashed(slot: Slot, owner: str, death: str, stacks: str, *, alone: bool) -> Finish:
    if alone:
        body = describe_text("Crashed", f"it brought its runner down: {death}", stacks)
        return _finish(slot, owner, Op.FAIL, outcome="crashed", body=body, solo=True)
    body = describe_text("Crashed", f"its runner went down with several tasks in it: {death}", stacks)
    return _finish(slot, owner, Op.SHARED_CRASH, outcome="crashed", body=body, solo=True)


def _finish(
    slot: Slot,
    owner: str,
    op: Op,
    *,
    outcome: str = "failed",
    body: str = "",
    reason: str = "",
    solo: bool = False,
) -> Finish:
    run_ms = round((monotonic_ns() - slot.started) / 1_000_000, 3)
    return Finish(
        slot.task_id,
        slot.entry,
        slot.epoch,
        op,
        outcome,
        run_ms,
        body,
        random.random(),
        reason,
        owner=owner,
        solo=solo,
    )


async def settle_dead(broker: Broker, child: RunnerChild, code: int) -> int:
    """Settle everything that a dead runner held, at once. Answers how many attempts that were."""
    slots = list(child.slots.taken())
    # Drained or told to stop: what it still held is given back, nobody is to blame.
    if child.draining and not child.killed_for:
        finishes = [_finish(slot, child.owner, Op.RELEASE, reason="drain") for slot in slots]
    else:
        finishes = judge(slots, child.killed_for, how_it_died(code), child.owner, child.last_stacks())
    if finishes:
        await broker.settle(child.owner, finishes)
    reason = "its runner died before it began"
    while True:
        swept = await broker.sweep(child.owner, child.ready.queues, [], ["*"], reason)
        if not swept.acted and not swept.more:
            return len(finishes)
