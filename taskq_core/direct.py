"""Commands straight to Redis, through the broker's functions; what Redis forgot comes from the history."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import RedisError

from taskq_core.access import ApiKey, KeyStore, NewKey, Scope
from taskq_core.awaiting import Awaiting
from taskq_core.backend import Ended, Subject
from taskq_core.broker.functions import Broker
from taskq_core.broker.keys import KEY_PREFIX
from taskq_core.broker.protocol import Cancelled, Submitted, TaskState
from taskq_core.broker.record import TaskRecord, decode_record
from taskq_core.catalog import CatalogCache
from taskq_core.errors import (
    Conflict,
    IdClock,
    NotFound,
    TaskqError,
    TooLate,
    Unavailable,
    UniqueTaken,
)
from taskq_core.gather import MOST_TOGETHER, Gather
from taskq_core.idempotency import Reservation, finish, replace, reserve, too_late
from taskq_core.lane import Lane
from taskq_core.model.order import Defaults, Order, Receipt, build
from taskq_core.model.task import Submission

if TYPE_CHECKING:
    from taskq_core.archive import Archive

__all__ = ["DirectBackend"]

PARTS_UNDER_WAY = 2


class DirectBackend:
    """One process's way into Redis on one event loop; connects at the first call."""

    def __init__(
        self,
        redis_url: str,
        database_url: str = "",
        *,
        name: str = "taskq-client",
        patience: float = 60.0,
    ) -> None:
        """Without a `database_url` a task that Redis does not keep is not found.

        `patience`: seconds that a call is repeated, under the same ids, before Unavailable.
        """
        self._url = redis_url
        self._database_url = database_url
        self._name = name
        self._patience = patience
        self._broker: Broker | None = None
        self._awaiting: Awaiting | None = None
        self._archive: Archive | None = None
        self._lane: Lane | None = None
        self._opening = asyncio.Lock()
        self._gather = Gather(self._send)
        self._catalog = CatalogCache()

    async def open(self) -> None:
        """Connect unless connected. Raises ConfigError, Unavailable."""
        await self.broker()

    async def broker(self) -> Broker:
        """The broker, connected."""
        async with self._opening:
            if self._broker is None:
                with _unavailable():
                    self._broker = await Broker.connect(self._url, name=self._name, patience=self._patience)
                self._awaiting = Awaiting(self._broker, self._forgotten_end)
                self._lane = Lane(self._url, self._broker.keys.events)
                await self._lane.open()
            return self._broker

    async def close(self) -> None:
        """Answer what was handed in, then disconnect. A later call connects again."""
        await self._gather.close()
        broker, awaiting, lane, archive = self._broker, self._awaiting, self._lane, self._archive
        self._broker = self._awaiting = self._lane = self._archive = None
        if lane is not None:
            await lane.close()
        if awaiting is not None:
            await awaiting.close()
        if archive is not None:
            await archive.close()
        if broker is not None:
            await broker.close()

    # --- submitting

    async def submit_one(self, order: Order, actor: str) -> Receipt:
        """Submit a task; many at a time share one call."""
        return await self._gather.submit(order, actor)

    async def submit_many(self, orders: Sequence[Order], actor: str) -> list[Receipt | TaskqError]:
        """Submit in order, in parts whose ids are made right before they are sent.

        While Redis works on one part the next is prepared. When Redis goes away in between, what was accepted
        keeps its receipt, the rest is answered by the error; raises Unavailable when nothing was accepted.
        """
        await self.broker()
        most = PARTS_UNDER_WAY if self._lane is not None and self._lane.is_open else 1
        starts = range(0, len(orders), MOST_TOGETHER)
        parts = deque(orders[start : start + MOST_TOGETHER] for start in starts)
        under_way: deque[tuple[int, asyncio.Task[list[Receipt | TaskqError]]]] = deque()
        replies: list[Receipt | TaskqError] = []
        trouble: Unavailable | None = None
        while parts or under_way:
            while parts and trouble is None and len(under_way) < most:
                part = parts.popleft()
                under_way.append((len(part), asyncio.create_task(self._send(part, actor))))
            if not under_way:
                break
            size, sending = under_way.popleft()
            try:
                replies += await sending
            except Unavailable as error:
                trouble = error
                replies += [error] * size
        if trouble is not None:
            if all(reply is trouble for reply in replies):
                raise trouble
            replies += [trouble] * (len(orders) - len(replies))
        return replies

    async def _send(self, orders: Sequence[Order], actor: str) -> list[Receipt | TaskqError]:
        broker = self._broker or await self.broker()
        try:
            return await self._send_by(broker, orders, actor)
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis: {error}") from error

    async def _send_by(
        self, broker: Broker, orders: Sequence[Order], actor: str
    ) -> list[Receipt | TaskqError]:
        """Ids that are seconds old and still refused mean that the server's clock jumped: once more."""
        receipts = await self._send_once(broker, orders, actor)
        refused = [at for at, one in enumerate(receipts) if isinstance(one, TooLate | IdClock)]
        if refused:
            await broker.read_clock()
            again = await self._send_once(broker, [orders[at] for at in refused], actor)
            for at, one in zip(refused, again, strict=True):
                receipts[at] = one
        return receipts

    async def _send_once(
        self, broker: Broker, orders: Sequence[Order], actor: str
    ) -> list[Receipt | TaskqError]:
        ids = await broker.new_ids(len(orders))
        now = broker.clock.now_ms()
        built = [_try_build(order, task_id, now) for order, task_id in zip(orders, ids, strict=True)]
        wanted = [one for one in built if isinstance(one, Submission)]
        if not wanted:
            return [one for one in built if isinstance(one, TaskqError)]
        answers = await self._submit(broker, wanted, actor)
        if len(wanted) == len(built):
            return [_receipt(one, answer) for one, answer in zip(wanted, answers, strict=True)]
        rest = iter(answers)
        return [one if isinstance(one, TaskqError) else _receipt(one, next(rest)) for one in built]

    async def _submit(self, broker: Broker, wanted: Sequence[Submission], actor: str) -> Sequence[Submitted]:
        """By the short way; any doubt is settled by the broker, with the same ids."""
        lane = self._lane
        answers = None if lane is None else await lane.submit(wanted, actor)
        return await broker.submit(wanted, actor) if answers is None else answers

    async def submit_reserved(self, order: Order, actor: str, key_id: str, key: str) -> tuple[Receipt, bool]:
        """Submit under an Idempotency-Key; see `idempotency`."""
        broker = await self.broker()
        with _unavailable():
            (task_id,) = await broker.new_ids(1)
            wanted = build(order, task_id, broker.clock.now_ms())
            standing = await reserve(broker, key_id, key, wanted)
            receipt = await self._finish_reserved(broker, order, actor, standing)
            if receipt is None:
                receipt = await self._find_lost(broker, standing.id)
            if receipt is None:
                (task_id,) = await broker.new_ids(1)
                ours = Reservation(task_id, wanted.digest, done=False)
                standing = await replace(broker, key_id, key, standing, ours)
                receipt = await self._finish_reserved(broker, order, actor, standing)
            if receipt is None:
                raise too_late(standing.id)
            if not standing.done:
                await finish(broker, key_id, key, standing, receipt.id)
        return receipt, standing.id == task_id

    async def _finish_reserved(
        self, broker: Broker, order: Order, actor: str, standing: Reservation
    ) -> Receipt | None:
        """The receipt for what is reserved; None when its id is too old and no task of it is kept."""
        wanted = build(order, standing.id, broker.clock.now_ms())
        if standing.done:
            return await self._earlier(wanted, standing.id)
        (answer,) = await self._submit(broker, [wanted], actor)
        if answer.code == TooLate.code:
            return None
        receipt = _receipt(wanted, answer)
        if isinstance(receipt, TaskqError):
            raise receipt
        return receipt

    async def _find_lost(self, broker: Broker, task_id: str) -> Receipt | None:
        """The receipt of a task that came and went; None when it never came. Raises HistoryBehind."""
        archive = self._past(broker)
        if archive is None:
            raise too_late(task_id)
        try:
            row = await archive.find(task_id)
        except Unavailable as error:
            raise too_late(task_id) from error
        if row is None:
            return None
        return Receipt(
            task_id, row.name or "", row.queue or "", row.state, row.submitted_at or 0, deduplicated=True
        )

    async def _earlier(self, wanted: Submission, task_id: str) -> Receipt:
        """The receipt of a task that was accepted before; its state is empty once Redis forgot it."""
        record = await self._record(task_id)
        if record is None:
            return Receipt(task_id, wanted.name, wanted.queue, "", 0, deduplicated=True)
        return Receipt(
            task_id, record.name, record.queue, record.state, record.submitted_ms, deduplicated=True
        )

    # --- the rest

    async def defaults_for(self, name: str, value: Any) -> Defaults:
        """Ask the catalog."""
        broker = self._broker or await self.broker()
        with _unavailable():
            return await self._catalog.defaults_for(broker.redis, name, value)

    async def end_of(self, task_id: str, timeout: float | None) -> Ended:
        """Wait by push."""
        await self.broker()
        awaiting = cast(Awaiting, self._awaiting)
        with _unavailable():
            end = await awaiting.end_of(task_id, timeout)
        return Ended(end.state, end.result, end.error)

    async def _forgotten_end(self, task_id: str) -> TaskState:
        return await self._past_of(await self.broker(), task_id).end_of(task_id)

    async def subject(self, task_id: str) -> Subject:
        """Read the task's hash, else what the history has of it."""
        record = await self._record(task_id)
        if record is None:
            broker = await self.broker()
            with _unavailable():
                return await self._past_of(broker, task_id).subject(task_id)
        return Subject(
            task_id, record.name, record.queue, record.state, record.unique_key, record.submitted_ms
        )

    async def _record(self, task_id: str) -> TaskRecord | None:
        broker = await self.broker()
        with _unavailable():
            return decode_record(task_id, await broker.redis.hgetall(broker.keys.task(task_id)))

    async def cancel(self, task_id: str, actor: str, reason: str) -> str:
        """Cancel; a running task is told and may still succeed."""
        broker = await self.broker()
        with _unavailable():
            return _state_after(task_id, "cancelled", await broker.cancel(task_id, actor, reason))

    async def retry(self, task_id: str, actor: str, reason: str, payload: bytes, digest: str) -> str:
        """Give an ended task a new life."""
        broker = await self.broker()
        with _unavailable():
            answer = await broker.retry_dead(task_id, actor, reason, payload.decode(), digest)
            if answer.code == NotFound.code:
                restored = await self._past_of(broker, task_id).restored(task_id)
                answer = await broker.retry_dead(task_id, actor, reason, payload.decode(), digest, restored)
        return _state_after(task_id, "retried", answer)

    def _past(self, broker: Broker) -> Archive | None:
        """The history; None when no setting says where it is."""
        if self._archive is None and self._database_url:
            from taskq_core.archive import Archive  # noqa: PLC0415  # most clients never need the driver

            self._archive = Archive(broker, self._database_url)
        return self._archive

    def _past_of(self, broker: Broker, task_id: str) -> Archive:
        """The history, for a task that Redis lacks. Raises NotFound when there is none to ask."""
        archive = self._past(broker)
        if archive is None:
            raise _absent(task_id)
        return archive

    async def record(self, action: str, arguments: bytes, actor: str, reason: str) -> None:
        """Append an `action` event."""
        broker = await self.broker()
        with _unavailable():
            await broker.record(action, arguments.decode(), actor, reason)

    # --- API keys

    async def create_key(self, scopes: frozenset[Scope], label: str, expires_at: int | None) -> NewKey:
        """Make an API key; its token is known only now."""
        broker = await self.broker()
        now = broker.clock.now_ms()
        return await _keys(broker).create(scopes, label=label, now_ms=now, expires_at=expires_at)

    async def list_keys(self) -> list[ApiKey]:
        """Every API key, oldest first."""
        return await _keys(await self.broker()).list()

    async def revoke_key(self, key_id: str) -> None:
        """Delete an API key."""
        await _keys(await self.broker()).revoke(key_id)


def _keys(broker: Broker) -> KeyStore:
    return KeyStore(broker.redis, KEY_PREFIX)


@contextlib.contextmanager
def _unavailable() -> Generator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        if isinstance(error, TimeoutError):  # the caller's own deadline
            raise
        raise Unavailable(f"Redis: {error}") from error


def _try_build(order: Order, task_id: str, now_ms: int) -> Submission | TaskqError:
    try:
        return build(order, task_id, now_ms)
    except TaskqError as error:
        return error


def _receipt(wanted: Submission, answer: Submitted) -> Receipt | TaskqError:
    if not answer.code:
        return Receipt(answer.id, wanted.name, wanted.queue, answer.state, answer.at, answer.id != wanted.id)
    if answer.code == TooLate.code:
        return TooLate(f"the id {wanted.id} is too old for a first submission; submit again")
    if answer.code == IdClock.code:
        return IdClock(f"the id {wanted.id} lies in the future of the server's clock; submit again")
    return Conflict(f"task {answer.id} exists with another content")


def _absent(task_id: str) -> NotFound:
    return NotFound(f"task {task_id} is not kept")


def _state_after(task_id: str, done: str, answer: Cancelled) -> str:
    if not answer.code:
        return answer.state
    if answer.code == NotFound.code:
        raise _absent(task_id)
    if answer.code == UniqueTaken.code:
        raise UniqueTaken(f"task {task_id} cannot be {done}: another task holds its unique key")
    raise Conflict(f"task {task_id} is {answer.state} and cannot be {done}")
