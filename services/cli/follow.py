"""Following the system, or one task to its end, in a terminal or a pipe."""

from __future__ import annotations

from contextlib import aclosing

from services.cli.bar import Bar
from services.cli.common import Session
from services.cli.reading import print_event, print_task
from services.cli.show import print_json
from taskq_core.model.lifecycle import ENDED
from taskq_core.read.views import EventView, FeedBatch

__all__ = ["follow_events", "follow_task"]

_ENDS = frozenset(str(state) for state in ENDED)  # an end and its event have the same name


async def follow_events(session: Session, as_json: bool) -> None:
    """Print events as they happen, until interrupted."""
    reader = await session.reader()
    async with aclosing(reader.follow()) as feed:
        async for batch in feed:
            if batch.missed:
                _tell_gap(batch, as_json)
            for event in batch.events:
                _print(event, as_json, with_task=True)


def _tell_gap(batch: FeedBatch, as_json: bool) -> None:
    if as_json:
        print_json({"missed": batch.missed})
    else:
        print(f"… {batch.missed} events could not be found any more", flush=True)


async def follow_task(session: Session, word: str, as_json: bool) -> str:
    """Print what happened and happens to a task until it ends; answers its last state."""
    reader = await session.reader()
    task_id = await session.task_id(word)
    bar = Bar()
    seen: set[str] = set()
    async with aclosing(reader.follow(task_id=task_id)) as feed:
        _ = await anext(feed)  # from here on nothing is missed
        view = await reader.task(task_id)
        if not as_json and view.state not in ENDED:
            print_task(view)
        past = (await reader.events(task_id, limit=500)).events
        state = _tell(past, seen, bar, as_json) or str(view.state)
        while state not in _ENDS:
            batch = await anext(feed)
            for progress in batch.progress.values():
                bar.show(progress.fraction, progress.message)
            state = _tell(batch.events, seen, bar, as_json) or state
    bar.clear()
    end = await reader.task(task_id)
    if as_json:
        print_json(end)
    else:
        print_task(end)
    return str(end.state)


def _tell(events: list[EventView], seen: set[str], bar: Bar, as_json: bool) -> str:
    """Print events that were not printed yet; the state that the last of them ended in, if it is an end."""
    last = ""
    for event in events:
        if event.id in seen:
            continue
        seen.add(event.id)
        bar.clear()
        _print(event, as_json)
        last = str(event.kind) if event.kind in _ENDS else last and str(event.kind)
    return last if last in _ENDS else ""


def _print(event: EventView, as_json: bool, *, with_task: bool = False) -> None:
    if as_json:
        print_json(event)
    else:
        print_event(event, with_task=with_task)
