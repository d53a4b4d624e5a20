"""The history as the command side needs it: what became of tasks that Redis keeps no longer.

Redis forgets a task only after the history holds its end. A task that Redis lacks has therefore ended, or was
never accepted; what else the history says means that one of the two has lost something, and is told as such.
"""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec

from taskq_core.audit.history import History, Pool, open_pool
from taskq_core.audit.redact import REDACTED
from taskq_core.audit.rows import TaskRow
from taskq_core.backend import Subject
from taskq_core.broker.functions import Broker
from taskq_core.broker.protocol import TaskState
from taskq_core.errors import Conflict, HistoryBehind, NotFound, PayloadNotKept, Unavailable
from taskq_core.model.ids import time_ms
from taskq_core.model.lifecycle import ENDED, State
from taskq_core.model.task import Priority
from taskq_core.read.tail import read_head

__all__ = ["Archive"]

OLDEST_MS = 90_000  # age of an id from which on it is not accepted for the first time, as submit.lua has it
MAX_CONNECTIONS = 2


class Archive:
    """The history behind one broker; connects at the first question. All of it may raise Unavailable."""

    def __init__(self, broker: Broker, database_url: str) -> None:
        self._broker = broker
        self._database_url = database_url
        self._opening = asyncio.Lock()
        self._pool: Pool | None = None
        self._opened: History | None = None

    async def close(self) -> None:
        """Disconnect."""
        async with self._opening:
            pool, self._pool, self._opened = self._pool, None, None
        if pool is not None:
            await pool.close(timeout=1.0)

    async def find(self, task_id: str) -> TaskRow | None:
        """The task; None when no task of this id was ever accepted nor can be.

        Raises HistoryBehind while that is not certain.
        """
        history = await self._history()
        seen, _ = await self._reach(history)  # first: what is committed meanwhile is then found
        row = await history.task(task_id)
        if row is None and seen <= time_ms(task_id) + OLDEST_MS:
            raise HistoryBehind(f"no task {task_id} so far; the history may still come to it, try again")
        return row

    async def subject(self, task_id: str) -> Subject:
        """An ended task as commands see it. Raises as `_ended`, and PayloadNotKept."""
        row = await self._ended(task_id)
        if row.name is None or row.queue is None:
            raise _not_kept(task_id)
        submitted_at = row.submitted_at or time_ms(task_id)
        return Subject(task_id, row.name, row.queue, row.state, row.unique_key or "", submitted_at)

    async def end_of(self, task_id: str) -> TaskState:
        """How a task ended. Raises as `_ended`; NotFound as well for a result that was kept redacted only."""
        row = await self._ended(task_id)
        # Numbers may be spelled otherwise than the task spelled them, and keys stand in another order.
        result = b"" if row.result is None else msgspec.json.encode(row.result)
        if REDACTED.encode() in result:
            raise NotFound(f"of the result of task {task_id} only a redacted copy is kept, to be looked at")
        return TaskState(row.state, result, b"" if row.error is None else msgspec.json.encode(row.error))

    async def restored(self, task_id: str) -> list[object]:
        """What the function `retry_dead` needs to give the task a new life.

        Raises Conflict when it succeeded, PayloadNotKept, and as `_ended`.
        """
        row = await self._ended(task_id)
        if row.state == State.SUCCEEDED:
            raise Conflict(f"task {task_id} is {row.state} and cannot be retried")
        history = await self._history()
        kept = await history.payload(task_id)
        if kept is None or kept.options is None or row.name is None or row.queue is None:
            raise _not_kept(task_id)
        runs = await history.attempts(task_id)
        return [
            row.name,
            row.queue,
            row.priority if row.priority in Priority else Priority.NORMAL,
            kept.raw.decode(),
            kept.options,
            kept.digest,
            row.submitted_at or time_ms(task_id),
            max([row.epoch, *(run.epoch for run in runs)]),
            row.unique_key or "",
            kept.metadata or "",
            row.trace_id or "",
        ]

    async def _ended(self, task_id: str) -> TaskRow:
        """A task that ended. Raises NotFound, HistoryBehind; Unavailable when Redis has lost it."""
        row = await self.find(task_id)
        if row is None:
            raise NotFound(f"no task {task_id}")
        if row.state in ENDED:
            return row
        # It had not ended when the row was read. Redis lacked it before that: another request may have
        # given it a new life in between, and repeating this one will find it there.
        _, whole = await self._reach(await self._history())
        if not whole or await self._broker.redis.exists(self._broker.keys.task(task_id)):
            raise HistoryBehind(f"task {task_id} is {row.state} as far as the history has come; try again")
        raise Unavailable(
            f"task {task_id} is {row.state} in the history, and Redis has lost it: "
            "until it is restored there nothing can be done with it"
        )

    async def _reach(self, history: History) -> tuple[int, bool]:
        """Server ms up to which the history holds everything; and whether it held all there was."""
        redis, keys = self._broker.redis, self._broker.keys
        seconds, micros = cast("tuple[int, int]", await redis.time())
        head = await read_head(redis, keys)
        place = await history.position(keys.shard)
        whole = head.n == 0 or (
            place is not None
            and place.incarnation == head.incarnation
            and place.n >= head.n
            and (place.ms, place.seq) >= (head.ms, head.seq)
        )
        now = int(seconds) * 1000 + int(micros) // 1000
        return now if whole else place.at if place else 0, whole

    async def _history(self) -> History:
        async with self._opening:
            if self._opened is None:
                self._pool = await open_pool(self._database_url, max_size=MAX_CONNECTIONS)
                self._opened = History(self._pool)
            return self._opened


def _not_kept(task_id: str) -> PayloadNotKept:
    return PayloadNotKept(f"what task {task_id} was given is no longer stored; submit it again")
