"""One task, its events and its attempts: Redis first, then the history, then what lies between them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from taskq_core.audit.rows import EventRow, TaskRow
from taskq_core.errors import HistoryBehind, NotFound, Unavailable
from taskq_core.model.ids import check_id, time_ms
from taskq_core.model.lifecycle import Kind
from taskq_core.read.cursor import decode_cursor, encode_cursor
from taskq_core.read.facts import (
    AttemptFacts,
    PlacedEvent,
    TaskFacts,
    attempt_view,
    complete,
    event_view,
    facts_of_attempt,
    facts_of_record,
    facts_of_row,
    task_view,
    view_of_event_row,
)
from taskq_core.read.projection import Projection
from taskq_core.read.sources import Sources
from taskq_core.read.tail import Tail, format_position, newer_first
from taskq_core.read.views import AttemptList, EventList, EventView, TaskView

__all__ = ["all_events", "one_task", "task_attempts", "task_events"]

FORGET_MS = 120_000  # W: until then an id may be accepted
EXTRAS_S = 0.3  # patience for what the history adds to a task that Redis knows
EXTRA_EVENTS = 500  # looked at for what the history does not have yet
_CHUNK = 1_000


async def one_task(sources: Sources, text: str) -> TaskView:
    """A task. Redis alone is enough for a live or fresh one, the history alone for an old one."""
    task_id = check_id(text)
    row_asked = asyncio.ensure_future(_row(sources, task_id))
    try:
        record = await sources.record(task_id)
        if record is not None:
            row = await _soon(row_asked, 0 if sources.past_rests else EXTRAS_S)
            return task_view(await _complete(sources, facts_of_record(record), row))
        row = await row_asked
    except Unavailable:
        row = await row_asked
        if row is None:
            raise
    finally:
        _ = row_asked.cancel()
    if row is None:
        raise await absence(sources, task_id)
    return task_view(facts_of_row(row))


async def _row(sources: Sources, task_id: str) -> TaskRow | None:
    return await sources.past("task", lambda history: history.task(task_id))


async def _soon(asked: asyncio.Future[TaskRow | None], patience_s: float) -> TaskRow | None:
    done, _ = await asyncio.wait({asked}, timeout=patience_s)
    with suppress(Unavailable):
        return asked.result() if done else None
    return None


async def _complete(sources: Sources, facts: TaskFacts, row: TaskRow | None) -> TaskFacts:
    """The hash's facts with what only events tell: from the history, and the newest events behind it."""
    told = facts_of_row(row) if row else None
    if told is None or (told.epoch, told.state) != (facts.epoch, facts.state):
        with suppress(Unavailable):
            head = await sources.head()
            newest = await sources.newest(head.incarnation, limit=EXTRA_EVENTS)
            fold = Projection()
            fold.seed([told] if told else [])
            fold.apply_all(_of_task(newest, facts.id))
            told = None if fold.illegal else fold.tasks.get(facts.id)
    if told is not None:
        complete(facts, told)
    return facts


async def absence(sources: Sources, task_id: str) -> NotFound | HistoryBehind:
    """What to raise for a task that neither store has.

    It may still be on its way from one to the other, unless the history has passed its time; a history that
    holds every event there is has come as far as the clock.
    """
    head = await sources.head()
    place = await sources.past("positions", lambda history: history.position(sources.keys.shard))
    reached = place.at if place else 0
    if not head.n or (place and place.incarnation == head.incarnation and place.n >= head.n):
        seconds, micros = await sources.live(sources.redis.time())  # pyright: ignore[reportUnknownMemberType]
        reached = int(seconds) * 1000 + int(micros) // 1000
    if reached >= time_ms(task_id) + FORGET_MS:
        return NotFound(f"no task {task_id}")
    return HistoryBehind(f"no task {task_id} so far; the history may not have reached it yet, try again")


# --- events of one task


async def task_events(sources: Sources, text: str, limit: int, cursor: str | None) -> EventList:
    """A page of one task's events, in order."""
    task_id = check_id(text)
    after = decode_cursor("events", cursor, tuple[int, int, int, int]) if cursor else (0, 0, 0, 0)
    try:
        tail = await _tail(sources)
        rows = await _event_rows(sources, task_id)
    except Unavailable as error:
        tail, rows = await _whole_from_stream(sources, task_id, error), []
    views: dict[tuple[int, int, int, int], EventView] = {
        (row.incarnation, row.ms, row.seq, row.idx): view_of_event_row(row) for row in rows
    }
    views.update(
        (placed.place, event_view(placed)) for placed in tail.events if placed.event.task_id == task_id
    )
    if not views:
        _ = await one_task(sources, task_id)  # raises when there is no such task
    places = sorted(place for place in views if place > after)
    page = places[:limit]
    return EventList(
        events=[views[place] for place in page],
        next=encode_cursor("events", *page[-1]) if len(places) > limit else None,
        as_of=format_position(tail.end, sources.keys.shard),
    )


async def _tail(sources: Sources) -> Tail:
    """What the history does not have yet; nothing when Redis is away."""
    committed = await sources.committed()
    try:
        return await sources.behind(committed)
    except Unavailable:
        if committed is None:
            raise
        return Tail([], complete=False, end=committed)


async def _event_rows(sources: Sources, task_id: str) -> list[EventRow]:
    rows: list[EventRow] = []
    while True:
        offset = len(rows)
        chunk = await sources.past(
            "events", lambda history, at=offset: history.events(task_id, limit=_CHUNK, offset=at)
        )
        rows += chunk
        if len(chunk) < _CHUNK:
            return rows


async def _whole_from_stream(sources: Sources, task_id: str, error: Unavailable) -> Tail:
    """The newest events of the stream, if the beginning of this task is among them."""
    head = await sources.head()
    tail = await sources.newest(head.incarnation)
    first = next((placed for placed in tail.events if placed.event.task_id == task_id), None)
    if first is None or first.event.kind is not Kind.SUBMITTED:
        raise Unavailable(f"{error}; the events still in Redis do not reach back far enough") from error
    return tail


# --- events of all


async def all_events(sources: Sources, limit: int, cursor: str | None) -> EventList:
    """A page of everything that happened, newest first: the stream, then the history."""
    before, below = "+", None
    if cursor is not None:
        before, below = decode_cursor("all_events", cursor, tuple[str, int])
    head = await sources.head()
    # The entry of the cursor is read once more: a page may have ended inside it.
    bound = before if before == "+" else _just_behind(before)
    tail = await sources.newest(head.incarnation, before=bound, limit=limit + 1)
    found = [placed for placed in newer_first(tail.events) if below is None or placed.n < below][: limit + 1]
    views = [(event_view(placed), placed.n, f"{placed.id.ms}-{placed.id.seq}") for placed in found]
    if len(views) <= limit and not (tail.complete or head.n == 0):
        lowest = found[-1].n if found else below
        rows = await sources.past(
            "newest_events",
            lambda history: history.newest_events(
                shard=sources.keys.shard, before=lowest, limit=limit + 1 - len(views)
            ),
        )
        views += [(view_of_event_row(row), row.n, f"{row.ms}-{row.seq}") for row in rows]
    page = views[:limit]
    more = len(views) > limit
    return EventList(
        events=[view for view, _, _ in page],
        next=encode_cursor("all_events", page[-1][2], page[-1][1]) if more else None,
        as_of=format_position(head, sources.keys.shard),
    )


def _just_behind(entry: str) -> str:
    ms, _, seq = entry.partition("-")
    return f"{ms}-{int(seq) + 1}" if ms.isdecimal() and seq.isdecimal() else "+"


# --- attempts


async def task_attempts(sources: Sources, text: str) -> AttemptList:
    """Every attempt of one task, in order."""
    task_id = check_id(text)
    fold = Projection()
    try:
        tail = await _tail(sources)
        row = await _row(sources, task_id)
        runs = await sources.past("attempts", lambda history: history.attempts(task_id))
        fold.seed([facts_of_row(row)] if row else [], [facts_of_attempt(run) for run in runs])
    except Unavailable as error:
        tail = await _whole_from_stream(sources, task_id, error)
    fold.apply_all(_of_task(tail, task_id))
    if task_id not in fold.tasks:
        _ = await one_task(sources, task_id)
    attempts = sorted(fold.attempts.values(), key=_epoch)
    return AttemptList(
        attempts=[attempt_view(attempt) for attempt in attempts],
        as_of=format_position(tail.end, sources.keys.shard),
    )


def _of_task(tail: Tail, task_id: str) -> list[PlacedEvent]:
    return [placed for placed in tail.events if placed.event.task_id == task_id]


def _epoch(attempt: AttemptFacts) -> int:
    return attempt.epoch
