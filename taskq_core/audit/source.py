"""Where the events come from, as the relay sees it. The broker's side is `broker/stream.py`.

The relay knows nothing of Redis: anything that keeps entries until they are acknowledged will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Entry", "EventSource", "Head"]

# Stream milliseconds, sequence number, packed EventBatch. None: the entry was deleted before it was read.
type Entry = tuple[int, int, bytes | None]

# Number of the newest event, and the server's clock in milliseconds.
type Head = tuple[int, int]


class EventSource(Protocol):
    """One shard's events. Every method raises errors.Unavailable when the source is away."""

    @property
    def shard(self) -> int:
        """Number of the shard."""
        ...

    async def incarnation(self) -> int:
        """How often the shard has begun anew; 1 at first."""
        ...

    async def raise_incarnation(self, to: int) -> None:
        """Begin anew: the source has lost events that the history holds, or its numbers start again."""
        ...

    async def pending(self, after: tuple[int, int], limit: int) -> list[Entry]:
        """Entries delivered to this consumer and not acknowledged, after an id; about `limit` bytes."""
        ...

    async def fresh(self, wait_s: float, limit: int) -> list[Entry]:
        """Entries never delivered, about `limit` bytes; waits so long for the first, then answers none."""
        ...

    async def ack(self, ids: Sequence[tuple[int, int]]) -> None:
        """These entries are committed."""
        ...

    async def forget(self, ended: Sequence[tuple[str, int]]) -> None:
        """The history holds the end (server milliseconds) of these tasks: their live copies may expire."""
        ...

    async def trim(self) -> int:
        """Drop what every reader has; answers how many entries."""
        ...

    async def head(self) -> Head:
        """How far the source is."""
        ...

    async def end(self) -> tuple[int, int]:
        """The id of the newest entry that was ever written, also when it is trimmed by now."""
        ...

    async def lacks(self, place: tuple[int, int]) -> bool:
        """Whether the entry of this id is missing although older ones stand: trimming takes the oldest."""
        ...

    async def next_ms(self, after: tuple[int, int]) -> int | None:
        """When the first entry after an id was written; None: there is none."""
        ...
