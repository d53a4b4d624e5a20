"""The one way to look at the system: what every front end asks, whether direct or over REST.

`direct.DirectReader` answers from Redis and Postgres. All methods raise

- InvalidOption: an argument is out of bounds, a cursor is not ours, or `at` is given (the past is not served
  yet);
- NotFound: no such task, as far as both stores know;
- HistoryBehind: the history has not reached the moment at which this task may have existed; try again;
- Unavailable: the store that would know is away; said within two seconds.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from taskq_core.errors import InvalidOption
from taskq_core.read.metrics import MetricsSnapshot
from taskq_core.read.views import (
    AttemptList,
    CatalogList,
    EventList,
    FeedBatch,
    OverviewView,
    QueueList,
    TaskList,
    TaskView,
    WorkerList,
)

__all__ = ["DEFAULT_LIMIT", "MAX_LIMIT", "Reader", "check_at", "check_limit"]

DEFAULT_LIMIT = 50
MAX_LIMIT = 500


class Reader(Protocol):
    """Every view; `at` (RFC 3339) will ask for a past instant, for now only None is allowed."""

    async def overview(self, *, at: str | None = None) -> OverviewView:
        """The whole system: verdict, queues, workers, rates, ledger, relay.

        Never raises Unavailable: what cannot be known is None, and the verdict says why.
        """
        ...

    async def tasks(
        self,
        *,
        state: str | None = None,
        queue: str | None = None,
        name: str | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        at: str | None = None,
    ) -> TaskList:
        """A page of tasks, most recent first, at most `limit` (1 to 500).

        `state`, `queue` and `name` must equal; an unknown state raises InvalidOption.
        """
        ...

    async def task(self, task_id: str, *, at: str | None = None) -> TaskView:
        """One task."""
        ...

    async def events(
        self,
        task_id: str | None = None,
        *,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
        at: str | None = None,
    ) -> EventList:
        """A page of what happened: to one task, first things first; without an id to all, newest first."""
        ...

    async def attempts(self, task_id: str, *, at: str | None = None) -> AttemptList:
        """Every attempt of one task, in order."""
        ...

    async def queues(self, *, at: str | None = None) -> QueueList:
        """Every queue, by name."""
        ...

    async def workers(self, *, at: str | None = None) -> WorkerList:
        """Every worker that was seen lately."""
        ...

    async def catalog(self, *, at: str | None = None) -> CatalogList:
        """Every task that a worker has registered, by name."""
        ...

    def follow(self, *, after: str | None = None, task_id: str | None = None) -> AsyncGenerator[FeedBatch]:
        """What happens from now on, or behind the cursor `after`, without an end.

        Events come once each and in order. The first batch is empty and tells where it begins; when nothing
        happens, an empty one comes about once a second as a heartbeat. `task_id` keeps the events of one.
        Close it to stop: `async with aclosing(reader.follow()) as feed: async for batch in feed: …`
        """
        ...

    async def metrics(self) -> MetricsSnapshot:
        """What /metrics tells about the system as a whole; every name is there, also at zero."""
        ...

    async def close(self) -> None:
        """Give back what the reader holds itself; connections handed in stay open."""
        ...


def check_at(at: str | None) -> None:
    """Raises InvalidOption: a past instant cannot be asked yet."""
    if at is not None:
        raise InvalidOption("`at` is not served yet: ask without it for the present")


def check_limit(limit: int) -> int:
    """The limit itself. Raises InvalidOption when it is not between 1 and 500."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidOption(f"limit must lie between 1 and {MAX_LIMIT}, not {limit}")
    return limit
