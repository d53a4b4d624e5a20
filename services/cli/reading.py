"""Verbs that look: tasks, task, queues, workers, events."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.common import AsJson, Data, Session, work
from services.cli.show import duration, moment, paint, print_json, print_line, print_table
from taskq_core.model.lifecycle import ENDED, State
from taskq_core.read.views import EventList, EventView, QueueList, TaskList, TaskView, WorkerList

__all__ = ["add_to"]

ENDED_WELL = "succeeded"
_TRACE_LINES = 8  # of a traceback, the newest

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the end.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="At most so many.")]


def tasks(
    state: Annotated[str | None, typer.Option(help="Only in this state.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only in this queue.")] = None,
    name: Annotated[str | None, typer.Option(help="Only of this name.")] = None,
    limit: Limit = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before this one ended.")] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """List tasks, most recent first."""

    async def ask(session: Session) -> TaskList:
        reader = await session.reader()
        return await reader.tasks(state=state, queue=queue, name=name, limit=limit, cursor=cursor)

    found = work(data, ask)
    if as_json:
        print_json(found)
        return
    rows = [
        (task.id, task.state, task.name, task.queue, task.attempt, moment(task.submitted_at), _took(task))
        for task in found.tasks
    ]
    print_table(("ID", "STATE", "NAME", "QUEUE", "ATTEMPT", "SUBMITTED (UTC)", "TOOK"), rows, coloured=1)
    if found.next:
        print_line(f"more: --cursor {found.next}")


def _took(task: TaskView) -> str:
    return duration(task.run_s)


def task(
    id: Annotated[str, typer.Argument(metavar="ID|last", help="A task's id, or `last`.")],
    follow: Follow = False,
    as_json: AsJson = False,
    data: Data = None,
) -> int:
    """Show one task and what happened to it; with --follow until it ends (exit code 1 if not well)."""
    if follow:
        from services.cli.follow import follow_task

        return 0 if work(data, lambda session: follow_task(session, id, as_json)) == ENDED_WELL else 1

    async def ask(session: Session) -> tuple[TaskView, EventList | None]:
        task_id = await session.task_id(id)
        reader = await session.reader()
        return await reader.task(task_id), None if as_json else await reader.events(task_id, limit=500)

    view, events = work(data, ask)
    if events is None:
        print_json(view)
    else:
        print_task(view)
        for event in events.events:
            print_event(event)
    return 0


def print_task(view: TaskView) -> None:
    """The facts of a task, one a line."""
    limit = f" of {view.max_attempts}" if view.max_attempts else ""
    over = view.state in ENDED
    failed = "last err" if view.state == State.SUCCEEDED else "error"  # of an attempt before the good one
    facts = {
        "state": str(view.state),
        "queue": f"{view.queue} ({view.priority})",
        "attempt": f"{view.attempt}{limit}",
        "submitted": moment(view.submitted_at),
        "due": moment(view.due_at) if view.due_at and not over else None,
        "waited": duration(view.wait_s) if view.wait_s is not None else None,
        "took": duration(view.run_s) if view.run_s is not None else None,
        "worker": view.worker,
        "payload": _json(view.payload),
        "progress": _progress(view),
        "result": _json(view.result) if view.result is not None else None,
        failed: f"{view.error.type}: {view.error.message}" if view.error else None,
    }
    print(paint(_one_line(f"{view.name} {view.id}"), "head"))
    for name, value in facts.items():
        if value is not None:
            shown = paint(_one_line(value), value) if name == "state" else _one_line(value)
            print(f"  {name:<10}{shown}")
    if view.error and view.error.traceback and view.state != State.SUCCEEDED:
        for line in view.error.traceback.splitlines()[-_TRACE_LINES:]:
            print_line(f"            {line}")


def _progress(view: TaskView) -> str | None:
    if view.progress is None or view.progress.fraction is None:
        return None
    return f"{view.progress.fraction:.0%} {view.progress.message or ''}".rstrip()


def _json(value: object) -> str:
    from services.cli.show import to_json

    return to_json(value)


def _one_line(text: str) -> str:
    from taskq_core.log import escape

    return escape(text)


def print_event(event: EventView, *, with_task: bool = False) -> None:
    """An event on one line."""
    parts = [event.at.partition("T")[2].removesuffix("Z"), paint(f"{event.kind:<11}", str(event.kind))]
    if with_task:
        parts.append(event.task_id or "-" * 36)
    if event.attempt:
        parts.append(f"attempt {event.attempt}")
    parts += [_one_line(text) for text in _said(event)]
    print("  ".join(parts), flush=True)


def _said(event: EventView) -> list[str]:
    detail = event.detail
    said = [
        f"{name} {detail[name]}"
        for name in ("action", "name", "queue", "outcome", "due_at", "message")
        if detail.get(name)
    ]
    said += [
        f"{name[:-2]} {duration(detail[name])}"
        for name in ("wait_s", "run_s")
        if detail.get(name) is not None
    ]
    error = detail.get("error")
    if error:
        said.append(f"{error.get('type')}: {error.get('message')}")
    named = (("worker", event.worker), ("by", event.actor), ("reason", event.reason))
    return said + [f"{name} {value}" for name, value in named if value]


def queues(as_json: AsJson = False, data: Data = None) -> None:
    """List the queues."""

    async def ask(session: Session) -> QueueList:
        return await (await session.reader()).queues()

    found = work(data, ask)
    if as_json:
        print_json(found)
        return
    states = ("scheduled", "queued", "running", "retrying", "parked", "dead")
    rows = [
        (
            queue.name,
            "paused" if queue.paused else "open",
            *(queue.depth.get(state, 0) for state in states),
            duration(queue.oldest_s),
            queue.workers,
        )
        for queue in found.queues
    ]
    print_table(("QUEUE", "STATE", *(state.upper() for state in states), "OLDEST", "WORKERS"), rows)


def workers(as_json: AsJson = False, data: Data = None) -> None:
    """List the workers."""

    async def ask(session: Session) -> WorkerList:
        return await (await session.reader()).workers()

    found = work(data, ask)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            worker.id,
            worker.state,
            worker.host,
            worker.pid,
            f"{worker.busy or 0}/{worker.slots or 0}",
            len(worker.runners),
            ",".join(worker.queues),
            worker.code_version,
            moment(worker.seen_at),
        )
        for worker in found.workers
    ]
    heads = ("ID", "STATE", "HOST", "PID", "BUSY", "RUNNERS", "QUEUES", "VERSION", "SEEN (UTC)")
    print_table(heads, rows, coloured=1)


def events(follow: Follow = False, limit: Limit = 50, as_json: AsJson = False, data: Data = None) -> None:
    """Show what happened, newest last; with --follow go on with what happens."""
    if follow:
        from services.cli.follow import follow_events

        work(data, lambda session: follow_events(session, as_json))
        return

    async def ask(session: Session) -> EventList:
        return await (await session.reader()).events(limit=limit)

    found = work(data, ask)
    if as_json:
        print_json(found)
        return
    for event in reversed(found.events):
        print_event(event, with_task=True)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    for verb in (tasks, task, queues, workers, events):
        app.command()(verb)
