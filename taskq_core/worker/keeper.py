"""Duties over the slot tables: renew the leases, find orphans, end what overstays."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable

from taskq_core.broker.functions import Broker
from taskq_core.clock import monotonic_ns
from taskq_core.worker.child import RunnerChild
from taskq_core.worker.control import Message
from taskq_core.worker.slots import RUNNING

__all__ = ["LeaseKeeper", "LimitKeeper"]

logger = logging.getLogger("taskq.worker")

Children = Callable[[], list[RunnerChild]]


class LeaseKeeper:
    """Renews what stands in the slots, each quarter of a lease; needs no word from the runner."""

    def __init__(self, broker: Broker, lease_s: float, children: Children) -> None:
        self._broker = broker
        self._lease_s = lease_s
        self._children = children

    async def step(self) -> float:
        """Renew the leases of every runner once."""
        for child in self._children():
            await self._renew(child)
        return self._lease_s / 4

    async def _renew(self, child: RunnerChild) -> None:
        now = monotonic_ns()
        slots = list(child.slots.taken())
        leases = [(slot.task_id, slot.entry, slot.epoch) for slot in slots]
        if leases:
            answer = await self._broker.renew(child.owner, leases)
            asked = {slot.task_id: slot.epoch for slot in slots}
            standing = {slot.task_id: slot.epoch for slot in child.slots.taken()}
            lost = [task_id for task_id in answer.lost if standing.get(task_id) == asked[task_id]]
            if lost:
                child.line.send(Message("lost", ids=lost))
            if answer.cancelled:
                child.line.send(Message("cancel", ids=answer.cancelled))
        child.slots.set_renewed(now)
        await self._find_orphans(child)

    async def _find_orphans(self, child: RunnerChild) -> None:
        """A pending entry in no slot for two looks in a row: its answer never reached the runner."""
        known = [slot.entry for slot in child.slots.taken()]
        swept = await self._broker.sweep(child.owner, child.ready.queues, known, child.suspects, "orphaned")
        child.suspects = swept.suspects


class LimitKeeper:
    """Kills what stays past its time limit and the grace after it."""

    REST_S = 0.25

    def __init__(self, children: Children) -> None:
        self._children = children

    async def step(self) -> float:
        """Look at every deadline once."""
        now = monotonic_ns()
        for child in self._children():
            for slot in child.slots.taken():
                if slot.state == RUNNING and slot.hard and now > slot.hard:
                    self._end(child, slot.task_id, slot.pid)
        return self.REST_S

    def _end(self, child: RunnerChild, task_id: str, pid: int) -> None:
        if task_id in child.killed_for or not child.alive:
            return
        logger.warning("task %s overstayed its time limit: killing what runs it", task_id)
        if pid:
            os.kill(pid, signal.SIGKILL)
            return
        child.killed_for.add(task_id)
        child.process.send_signal(signal.SIGKILL)
