"""What a client needs of the system, however it reaches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from taskq_core.access import ApiKey, NewKey, Scope
from taskq_core.errors import TaskqError
from taskq_core.model.order import Defaults, Order, Receipt

__all__ = ["Backend", "Ended", "Subject"]


class Ended(msgspec.Struct, frozen=True):
    """How a task ended; result and error are raw JSON, empty when there is none."""

    state: str
    result: bytes
    error: bytes


class Subject(msgspec.Struct, frozen=True):
    """What a command must know of the task it is about."""

    id: str
    name: str
    queue: str
    state: str
    unique_key: str
    submitted_at: int


class Backend(Protocol):
    """Carries commands out. All of it may raise Unavailable."""

    async def open(self) -> None:
        """Connect; every other method does so by itself."""
        ...

    async def close(self) -> None:
        """Finish what is under way and disconnect."""
        ...

    async def submit_one(self, order: Order, actor: str) -> Receipt:
        """Submit a task; many at a time share one call."""
        ...

    async def submit_many(self, orders: Sequence[Order], actor: str) -> list[Receipt | TaskqError]:
        """Submit tasks in order; what is refused is answered in its place."""
        ...

    async def submit_reserved(self, order: Order, actor: str, key_id: str, key: str) -> tuple[Receipt, bool]:
        """Submit under an Idempotency-Key; answers whether this request was the first.

        Raises HistoryBehind when that cannot be known now.
        """
        ...

    async def defaults_for(self, name: str, value: Any) -> Defaults:
        """What a registered task says about submissions. Raises UnknownTask, InvalidPayload."""
        ...

    async def end_of(self, task_id: str, timeout: float | None) -> Ended:
        """Wait for the end. Raises TimeoutError, NotFound, HistoryBehind."""
        ...

    async def subject(self, task_id: str) -> Subject:
        """A task as it stands. Raises NotFound, HistoryBehind, PayloadNotKept."""
        ...

    async def cancel(self, task_id: str, actor: str, reason: str) -> str:
        """The state after it. Raises NotFound, Conflict."""
        ...

    async def retry(self, task_id: str, actor: str, reason: str, payload: bytes, digest: str) -> str:
        """The state after it. Raises NotFound, Conflict, UniqueTaken, PayloadNotKept, HistoryBehind."""
        ...

    async def record(self, action: str, arguments: bytes, actor: str, reason: str) -> None:
        """Write an operator's act into the history."""
        ...

    async def create_key(self, scopes: frozenset[Scope], label: str, expires_at: int | None) -> NewKey:
        """Make an API key; its token is known only now."""
        ...

    async def list_keys(self) -> list[ApiKey]:
        """Every API key, oldest first."""
        ...

    async def revoke_key(self, key_id: str) -> None:
        """Delete an API key. Raises NotFound."""
        ...
