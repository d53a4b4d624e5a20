"""A runner's desk: which slots are free, what runs, what has ended and waits to be settled."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from taskq_core.broker.functions import CALL_TASKS
from taskq_core.broker.keys import SOLO
from taskq_core.broker.protocol import Claim, Finish, Held, QueueWant, TakeWant
from taskq_core.model.task import Priority
from taskq_core.tasks import Task
from taskq_core.worker.slots import KINDS, SlotTable

__all__ = ["Active", "Desk"]

STREAM_INDEX = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2, SOLO: 3}


class Active:
    """An attempt from its claim to its acknowledged settle."""

    __slots__ = ("cancel", "claim", "ended", "kind", "slot", "started", "stop", "task")

    def __init__(self, claim: Claim, task: Task[..., Any], kind: int) -> None:
        self.claim = claim
        self.task = task
        self.kind = kind
        self.slot = -1
        self.started = 0
        self.ended = False
        self.stop = ""  # why it was told to stop: cancel, timeout, drain, doubt, lost
        self.cancel: Any = None  # how to tell it


class Desk:
    """The books of one runner. Not thread-safe: the event loop alone writes in them."""

    def __init__(
        self,
        owner: str,
        code_version: str,
        table: SlotTable,
        tasks: Mapping[str, Task[..., Any]],
        queues: list[str],
        capacity: list[int],
        *,
        solo: bool,
    ) -> None:
        self.owner = owner
        self.table = table
        self.tasks = tasks
        self.queues = queues
        self.solo = solo
        self.capacity = capacity
        self.free = list(capacity)
        self.active: dict[str, Active] = {}
        self.done: list[tuple[Active | None, Finish]] = []
        self.held: list[Held] = []
        self.signal = asyncio.Event()  # something for a lane to do
        self.hungry = asyncio.Event()  # nothing waits in the queues: the waker may listen
        self.draining = False
        self.doubt = False  # an answer was lost: ask for our own
        self._code_version = code_version
        self._rotation = 0
        self._queue_index = {queue: index for index, queue in enumerate(queues)}
        self._streams = [SOLO] if solo else [str(priority) for priority in Priority]
        self._wants = [QueueWant(queue, self._kinds(queue)) for queue in queues]

    def _kinds(self, queue: str) -> list[int]:
        """1-based indexes of the slot kinds that a task of this queue may need."""
        if self.solo:
            return [1]
        kinds = {KINDS.index(task.kind) + 1 for task in self.tasks.values() if task.queue == queue}
        return sorted(kinds) or [1]

    # --- taking

    def reserve(self) -> list[int]:
        """What one call may take: a quarter of the capacity, so that calls overlap with the code."""
        budgets = [
            min(free, max(1, whole // 4), CALL_TASKS)
            for free, whole in zip(self.free, self.capacity, strict=True)
        ]
        self.free = [free - taken for free, taken in zip(self.free, budgets, strict=True)]
        return budgets

    def give_up(self, budgets: list[int]) -> None:
        """Return what was reserved."""
        self.free = [free + back for free, back in zip(self.free, budgets, strict=True)]

    def has_room(self) -> bool:
        """Whether any queue could be taken from."""
        return any(all(self.free[kind - 1] > 0 for kind in wanted.kinds) for wanted in self._wants)

    def asked_less_than_room(self, budgets: list[int]) -> bool:
        """Whether a queue has room now that the last take could not fill: its silence says nothing."""
        return any(
            all(self.free[kind - 1] > 0 for kind in wanted.kinds)
            and not all(budgets[kind - 1] > 0 for kind in wanted.kinds)
            for wanted in self._wants
        )

    def served(self, queue: str) -> None:
        """The next take begins with the queue after this one."""
        self._rotation = self._queue_index[queue] + 1

    def want(self, budgets: list[int]) -> TakeWant:
        """What to ask for now, with the entries that the blocking read brought."""
        held, self.held = self.held, []
        again, self.doubt = self.doubt, False
        return TakeWant(
            owner=self.owner,
            code_version=self._code_version,
            budgets=budgets,
            queues=self._wants,
            streams=self._streams,
            rotation=self._rotation,
            held=held,
            again=again,
            known=list(self.active) if again else [],
        )

    def readable(self) -> list[tuple[str, str]]:
        """(queue, stream) pairs that a blocking read may listen on: those with room."""
        return [
            (wanted.queue, stream)
            for stream in self._streams
            for wanted in self._wants
            if all(self.free[kind - 1] > 0 for kind in wanted.kinds)
        ]

    # --- one attempt

    def has_slot(self, queue: str, task: Task[..., Any]) -> bool:
        """Whether the task may start now.

        A caller may send a task to a queue whose declared tasks need other slots: the queue is then taken
        from only as far as this kind has room as well.
        """
        kind = 0 if self.solo else KINDS.index(task.kind)
        index = self._queue_index[queue]
        known = self._wants[index].kinds
        if kind + 1 not in known:
            self._wants[index] = QueueWant(queue, sorted([*known, kind + 1]))
        return self.free[kind] > 0

    def open(self, claim: Claim, task: Task[..., Any], now: int, soft: int, hard: int) -> Active:
        """Write the slot; the attempt may start."""
        kind = KINDS.index(task.kind)
        active = Active(claim, task, 0 if self.solo else kind)
        active.started = now
        place = (kind, self._queue_index[claim.queue], STREAM_INDEX[claim.stream])
        active.slot = self.table.occupy(place, claim.epoch, claim.entry, claim.task_id, (now, soft, hard))
        self.active[claim.task_id] = active
        self.free[active.kind] -= 1
        return active

    def finish(self, active: Active, finish: Finish) -> None:
        """The attempt is over; a lane will settle it."""
        if active.ended:
            return
        active.ended = True
        active.cancel = None
        self.table.mark_ended(active.slot)
        self.done.append((active, finish))
        self.signal.set()

    def refuse(self, finish: Finish) -> None:
        """Give a claim back that never got a slot."""
        self.done.append((None, finish))
        self.signal.set()

    def acknowledged(self, settled: list[tuple[Active | None, Finish]]) -> None:
        """These are settled: their slots are free again."""
        for active, _ in settled:
            if active is not None:
                self.table.clear(active.slot)
                self.active.pop(active.claim.task_id, None)
                self.free[active.kind] += 1
