"""The command side: submit, cancel, retry, await. Every way in ends here and is checked here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Self, Unpack

import msgspec

from taskq_core.access import ApiKey, NewKey, check_scopes
from taskq_core.backend import Backend
from taskq_core.config import Settings
from taskq_core.direct import DirectBackend
from taskq_core.errors import ConfigError, TaskCancelled, TaskDead, TaskqError, TooLarge
from taskq_core.handle import Host, TaskHandle, decode_plain
from taskq_core.idempotency import check_key
from taskq_core.model.codec import MAX_PAYLOAD, decode_json, digest, encode_json
from taskq_core.model.ids import check_id
from taskq_core.model.lifecycle import State
from taskq_core.model.options import check_options
from taskq_core.model.order import Order, Receipt
from taskq_core.tasks import CallSettings, Task

__all__ = ["Client", "Payload", "Request"]

type Payload = bytes | msgspec.Raw | Mapping[str, Any] | None
"""Raw JSON from outside, or a mapping that Python code made; None is `{}`."""

_CHECKS_PER_TURN = 200  # of a batch, before other work of the event loop gets its turn


class Request(msgspec.Struct, frozen=True):
    """One element of a batch. Options are those of `Task.options`, by name."""

    name: str
    payload: Any = None
    options: Mapping[str, Any] = {}


class Client:
    """Commands of one process on one event loop. Connects by itself at the first call."""

    def __init__(
        self,
        backend: Backend,
        tasks: Mapping[str, Task[..., Any]] | None = None,
        host: Host | None = None,
    ) -> None:
        """`tasks`: declarations that are checked here and need no catalog; `host`: who owns the handles."""
        self._backend = backend
        self._tasks: Mapping[str, Task[..., Any]] = {} if tasks is None else tasks
        self._host: Host = self if host is None else host

    @classmethod
    def of(
        cls,
        settings: Settings,
        tasks: Mapping[str, Task[..., Any]] | None = None,
        host: Host | None = None,
    ) -> Self:
        """The client that fits the settings. Raises ConfigError when they name no server."""
        if not settings.redis_url:
            raise ConfigError("this version reaches the system over TASKQ_REDIS_URL only; set it")
        return cls(DirectBackend(settings.redis_url, settings.database_url), tasks, host)

    async def connect(self) -> Self:
        """Connect now rather than at the first call. Raises ConfigError, Unavailable."""
        await self._backend.open()
        return self

    async def close(self) -> None:
        """Answer what is under way and disconnect."""
        await self._backend.close()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- submitting by name

    async def submit(
        self, name: str, payload: Payload = None, *, actor: str = "", **options: Unpack[CallSettings]
    ) -> TaskHandle[Any]:
        """Submit a task by name. Raises a kind of Refused, Unavailable, Full."""
        order = await self.check(name, payload, options)
        return self._handle(await self._backend.submit_one(order, actor))

    async def submit_idempotent(
        self,
        name: str,
        payload: Payload = None,
        *,
        key_id: str,
        idempotency_key: str,
        actor: str = "",
        **options: Unpack[CallSettings],
    ) -> tuple[TaskHandle[Any], bool]:
        """As `submit`, once a day per API key id and Idempotency-Key.

        Answers the task and whether this request made it. Raises Conflict, naming the first task, when the
        key came with another content.
        """
        order = await self.check(name, payload, options)
        receipt, first = await self._backend.submit_reserved(order, actor, key_id, check_key(idempotency_key))
        return self._handle(receipt), first

    async def submit_batch(
        self, requests: Sequence[Request], *, actor: str = ""
    ) -> list[Receipt | TaskqError]:
        """Submit many tasks in order; one that is refused is answered by its error, in its place."""
        checked: list[Order | TaskqError] = []
        for number, request in enumerate(requests, 1):
            checked.append(await self._try_check(request))
            if number % _CHECKS_PER_TURN == 0:
                await asyncio.sleep(0)
        orders = [one for one in checked if isinstance(one, Order)]
        replies = iter(await self._backend.submit_many(orders, actor))
        return [next(replies) if isinstance(one, Order) else one for one in checked]

    async def check(self, name: str, payload: Payload, options: Mapping[str, Any]) -> Order:
        """Everything that can be known before the task is sent. Raises a kind of Refused."""
        given = check_options(options)
        raw, value = _read_payload(payload)
        task = self._tasks.get(name)
        if task is not None:
            task.bind(raw)
            return task.order(raw, given)
        return Order(name, raw, await self._backend.defaults_for(name, value), given)

    async def _try_check(self, request: Request) -> Order | TaskqError:
        try:
            return await self.check(request.name, request.payload, request.options)
        except TaskqError as error:
            return error

    def _handle(self, receipt: Receipt) -> TaskHandle[Any]:
        task = self._tasks.get(receipt.name)
        return TaskHandle(self._host, receipt, decode_plain) if task is None else task.handle(receipt)

    # --- submitting what was declared

    async def submit_order(self, order: Order) -> Receipt:
        """Submit one checked task."""
        return await self._backend.submit_one(order, "")

    async def submit_orders(self, orders: Sequence[Order]) -> list[Receipt]:
        """Submit checked tasks, in order; raises for the first that is refused."""
        receipts: list[Receipt] = []
        for reply in await self._backend.submit_many(orders, ""):
            if isinstance(reply, TaskqError):
                raise reply
            receipts.append(reply)
        return receipts

    # --- what becomes of it

    async def result(self, task_id: str, timeout: float | None = None) -> Any:
        """What the task returned, as JSON gives it. Raises as `raw_result`."""
        return decode_plain(await self.raw_result(task_id, timeout))

    async def raw_result(self, task_id: str, timeout: float | None = None) -> bytes:
        """Raw JSON of the result; from the history, with an equal value, once Redis has forgotten it.

        Raises TaskDead, TaskCancelled, TimeoutError, NotFound, HistoryBehind.
        """
        end = await self._backend.end_of(check_id(task_id), timeout)
        if end.state == State.DEAD:
            raise TaskDead(task_id, msgspec.json.decode(end.error) if end.error else None)
        if end.state == State.CANCELLED:
            raise TaskCancelled(task_id)
        return end.result or b"null"

    async def cancel(self, task_id: str, *, actor: str = "", reason: str = "") -> str:
        """Cancel a task; answers its state after it, `running` when its runner was told.

        Raises NotFound, Conflict when it ended otherwise.
        """
        return await self._backend.cancel(check_id(task_id), actor, reason)

    async def retry(self, task_id: str, payload: Payload = None, *, actor: str = "", reason: str = "") -> str:
        """Give a dead or cancelled task a new life, with another payload if one is given.

        One that Redis has forgotten comes back from the history. Raises NotFound, Conflict, UniqueTaken,
        InvalidPayload, PayloadNotKept, HistoryBehind.
        """
        task_id = check_id(task_id)
        if payload is None:
            return await self._backend.retry(task_id, actor, reason, b"", "")
        subject = await self._backend.subject(task_id)
        raw = (await self.check(subject.name, payload, {})).payload
        parts = (subject.name, subject.queue, raw, subject.unique_key, "")
        mark = digest(*(part if isinstance(part, bytes) else part.encode() for part in parts))
        return await self._backend.retry(task_id, actor, reason, raw, mark)

    async def record(
        self, action: str, arguments: Mapping[str, Any], *, actor: str = "", reason: str = ""
    ) -> None:
        """Write an operator's act into the history."""
        await self._backend.record(action, encode_json(dict(arguments)), actor, reason)

    # --- API keys

    async def create_key(
        self,
        scopes: Iterable[str],
        *,
        label: str = "",
        expires_at: int | None = None,
        actor: str = "",
    ) -> NewKey:
        """Make an API key, and say so in the history; `expires_at` in server milliseconds.

        Its token is in the answer and nowhere else. Raises InvalidOption.
        """
        new = await self._backend.create_key(check_scopes(scopes), label, expires_at)
        told = {"id": new.key.id, "scopes": sorted(new.key.scopes), "label": label}
        await self.record("create_key", told, actor=actor)
        return new

    async def list_keys(self) -> list[ApiKey]:
        """Every API key, oldest first; without secrets."""
        return await self._backend.list_keys()

    async def revoke_key(self, key_id: str, *, actor: str = "", reason: str = "") -> None:
        """Delete an API key, and say so in the history. Raises NotFound."""
        await self._backend.revoke_key(key_id)
        await self.record("revoke_key", {"id": key_id}, actor=actor, reason=reason)

    def run_sync[T](self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:  # noqa: ARG002  # of Host
        """A client lives on one event loop: only an app has the other kind."""
        raise RuntimeError("a bare Client has no synchronous form; use TaskQ")


def _read_payload(payload: Payload) -> tuple[bytes, Any]:
    """Raw JSON and its value. Raises InvalidJson, TooLarge."""
    if payload is None:
        return b"{}", {}
    if isinstance(payload, Mapping):
        raw = encode_json(dict(payload))
        if len(raw) > MAX_PAYLOAD:
            raise TooLarge(f"the payload has {len(raw)} bytes; the limit is {MAX_PAYLOAD}")
        return raw, msgspec.json.decode(raw)
    raw = bytes(payload)
    return raw, decode_json(raw, MAX_PAYLOAD)
