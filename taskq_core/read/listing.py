"""Lists of tasks: the history at its position, with the events behind it folded over it.

So an accepted task is listed at once. Pages go by id, newest first, which no new task can shift.
"""

from __future__ import annotations

import msgspec

from taskq_core.audit.rows import TaskRow
from taskq_core.errors import InvalidOption, NotFound, Unavailable
from taskq_core.model.ids import check_id, time_ms
from taskq_core.model.lifecycle import Kind, State
from taskq_core.read.cursor import decode_cursor, encode_cursor
from taskq_core.read.facts import TaskFacts, facts_of_row, task_view
from taskq_core.read.projection import Projection
from taskq_core.read.sources import Sources
from taskq_core.read.tail import Tail, format_position
from taskq_core.read.views import TaskList

__all__ = ["TaskQuery", "list_tasks"]

AHEAD_MS = 10_000  # an id may lie so far ahead of the moment at which its task was accepted
_PAGE = 200  # rows asked for when some of them may be dropped


class TaskQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks are wanted."""

    state: State | None = None
    queue: str | None = None
    name: str | None = None
    before: str | None = None  # ids below this one
    limit: int

    def matches(self, task: TaskFacts) -> bool:
        """Whether a task is one of them."""
        return (
            (self.state is None or task.state is self.state)
            and (self.queue is None or task.queue == self.queue)
            and (self.name is None or task.name == self.name)
            and (self.before is None or task.id < self.before)
        )


def make_query(
    state: str | None, queue: str | None, name: str | None, limit: int, cursor: str | None
) -> TaskQuery:
    """Raises InvalidOption for a state or a cursor that is none."""
    if state is not None and state not in set(State):
        raise InvalidOption(f"unknown state {state[:60]!r}: known are {', '.join(State)}")
    before = None
    if cursor is not None:
        (before,) = decode_cursor("tasks", cursor, tuple[str])
        try:
            before = check_id(before)
        except NotFound as error:
            raise InvalidOption("the cursor is not one that this list gave") from error
    return TaskQuery(
        state=State(state) if state else None, queue=queue, name=name, before=before, limit=limit
    )


async def list_tasks(sources: Sources, query: TaskQuery) -> TaskList:
    """A page. Raises Unavailable when the store that would know is away."""
    try:
        committed = await sources.committed()
        try:
            tail = await sources.behind(committed)
        except Unavailable:
            if committed is None:
                raise
            tail = Tail([], complete=False, end=committed)
        return await _merge(sources, query, tail)
    except Unavailable as error:
        return await _from_stream(sources, query, error)


async def _merge(sources: Sources, query: TaskQuery, tail: Tail) -> TaskList:
    fold = await _fold(sources, tail)
    found = [task for task in fold.tasks.values() if query.matches(task)]
    found += await _untouched(sources, query, fold)
    return _page(found, query, format_position(tail.end, sources.keys.shard))


async def _fold(sources: Sources, tail: Tail) -> Projection:
    """The tasks that the tail touches, as it leaves them."""
    fold = Projection()
    ids = {placed.event.task_id for placed in tail.events if placed.event.task_id}
    born = {placed.event.task_id for placed in tail.events if placed.event.kind is Kind.SUBMITTED}
    old = sorted(ids - born)
    if old:
        rows = await sources.past("tasks_by_id", lambda history: history.tasks_by_id(old))
        fold.seed(facts_of_row(row) for row in rows)
    fold.apply_all(tail.events)
    return fold


async def _untouched(sources: Sources, query: TaskQuery, fold: Projection) -> list[TaskFacts]:
    """Matching rows of the history that the tail does not touch: one more than a page, or all."""
    found: list[TaskFacts] = []
    wanted = query.limit + 1
    size = max(wanted, _PAGE) if fold.tasks else wanted
    before = query.before
    while True:
        rows = await _rows(sources, query, before, size)
        found += [facts_of_row(row) for row in rows if row.id not in fold.tasks]
        if len(rows) < size or len(found) >= wanted:
            return found
        before = rows[-1].id


async def _rows(sources: Sources, query: TaskQuery, before: str | None, limit: int) -> list[TaskRow]:
    return await sources.past(
        "tasks",
        lambda history: history.tasks(
            states=[query.state] if query.state else (),
            queues=[query.queue] if query.queue else (),
            names=[query.name] if query.name else (),
            before=before,
            limit=limit,
        ),
    )


async def _from_stream(sources: Sources, query: TaskQuery, error: Unavailable) -> TaskList:
    """Without the history: exact as far as the stream reaches back, else the error."""
    head = await sources.head()
    tail = await sources.newest(head.incarnation)
    fold = Projection()
    fold.apply_all(tail.events)
    found = [task for task in fold.tasks.values() if query.matches(task)]
    whole = head.incarnation == 1 and (tail.complete or head.n == 0)
    if not whole:
        sure = tail.events[0].at + AHEAD_MS if tail.events else 0
        found = [task for task in found if time_ms(task.id) >= sure]
        if len(found) <= query.limit:
            raise Unavailable(f"{error}; the events still in Redis do not reach back far enough") from error
    return _page(found, query, format_position(tail.end, sources.keys.shard))


def _page(found: list[TaskFacts], query: TaskQuery, as_of: str) -> TaskList:
    found.sort(key=lambda task: task.id, reverse=True)
    page = found[: query.limit]
    more = len(found) > query.limit
    return TaskList(
        tasks=[task_view(task) for task in page],
        next=encode_cursor("tasks", page[-1].id) if more else None,
        as_of=as_of,
    )
