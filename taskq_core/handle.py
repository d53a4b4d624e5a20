"""What a caller holds after submitting: the task's id, and the way to its end."""

from __future__ import annotations

import html
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import msgspec

from taskq_core.clock import format_ms
from taskq_core.model.order import Order, Receipt

__all__ = ["Host", "TaskHandle"]


class Host(Protocol):
    """Who carries orders out: the app, or a client."""

    async def submit_order(self, order: Order) -> Receipt:
        """Submit one task."""
        ...

    async def submit_orders(self, orders: Sequence[Order]) -> list[Receipt]:
        """Submit many tasks, in order; raises at the first that is refused."""
        ...

    async def raw_result(self, task_id: str, timeout: float | None = None) -> bytes:
        """The JSON of the result. Raises TaskDead, TaskCancelled, TimeoutError, NotFound."""
        ...

    async def cancel(self, task_id: str, *, actor: str = "", reason: str = "") -> str:
        """Cancel a task; answers its state after it."""
        ...

    def run_sync[T](self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine from code that has no event loop, and wait."""
        ...


class TaskHandle[R]:
    """A submitted task. `result()` waits for its end and gives what its function returned."""

    __slots__ = ("_decode", "_host", "receipt")

    def __init__(self, host: Host, receipt: Receipt, decode: Callable[[bytes], R]) -> None:
        self._host = host
        self._decode = decode
        self.receipt = receipt

    @property
    def id(self) -> str:
        """The task's id, a UUID of version 7."""
        return self.receipt.id

    @property
    def name(self) -> str:
        """The task's name."""
        return self.receipt.name

    @property
    def queue(self) -> str:
        """The queue it was put into."""
        return self.receipt.queue

    @property
    def state(self) -> str:
        """Its state when it was accepted; it has moved on since."""
        return self.receipt.state

    @property
    def submitted_at(self) -> str | None:
        """When it was accepted, RFC 3339, by the server's clock."""
        return format_ms(self.receipt.submitted_at)

    @property
    def deduplicated(self) -> bool:
        """Whether an earlier task was given back instead of a new one."""
        return self.receipt.deduplicated

    async def result(self, timeout: float | None = None) -> R:
        """Wait for the end, at most `timeout` seconds.

        Raises TaskDead, TaskCancelled, TimeoutError; NotFound when the result is no longer kept.
        """
        return self._decode(await self._host.raw_result(self.id, timeout))

    def result_sync(self, timeout: float | None = None) -> R:
        """As `result`, from code without an event loop."""
        return self._host.run_sync(lambda: self.result(timeout))

    async def cancel(self, reason: str = "") -> str:
        """Cancel it; answers its state, `running` when its runner has been told."""
        return await self._host.cancel(self.id, reason=reason)

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskHandle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(self.name)}</code> · <code>{html.escape(self.id)}</code>"


def decode_plain(result: bytes) -> Any:
    """The result of a task whose declaration is not at hand."""
    return msgspec.json.decode(result)
