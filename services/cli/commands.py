"""Verbs that do something to tasks: submit, cancel, retry."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
import typer

from services.cli.common import Data, Reason, Session, actor, work
from services.cli.show import print_json, print_line
from taskq_core.errors import InvalidJson, InvalidOption

__all__ = ["add_to"]


def submit(  # noqa: PLR0917  # one parameter per option
    name: Annotated[str, typer.Argument(help="Name of the task, like image.resize.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Its arguments; a value is JSON, or else text."),
    ] = None,
    payload: Annotated[
        str | None, typer.Option("--json", metavar="JSON", help="All arguments as JSON; - reads stdin.")
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Another queue than the task's own.")] = None,
    priority: Annotated[str | None, typer.Option(help="high, normal or low.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds until it is due.")] = None,
    unique: Annotated[
        str | None, typer.Option(help="While a task with this key lives, it is given back instead.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and print the result.")] = False,
    timeout: Annotated[float | None, typer.Option(min=0.0, help="Seconds to wait at most.")] = None,
    data: Data = None,
) -> None:
    """Submit a task; prints its id, or with --wait its result."""
    content = _payload(arguments or [], payload)
    options: dict[str, Any] = {"queue": queue, "priority": priority, "delay": delay, "unique_key": unique}
    given = {key: value for key, value in options.items() if value is not None}

    async def do(session: Session) -> None:
        client = await session.client()
        handle = await client.submit(name, msgspec.Raw(content), actor=actor(), **given)
        if not wait:
            print_line(handle.id)
            return
        print(handle.id, file=sys.stderr)
        async with _progress(session, handle.id):
            result = await client.result(handle.id, timeout)
        print_json(result)

    work(data, do)


def _payload(arguments: list[str], payload: str | None) -> bytes:
    if payload is None:
        return _encode(arguments)
    if arguments:
        raise InvalidOption("give the arguments as KEY=VALUE or by --json, not both")
    return sys.stdin.buffer.read() if payload == "-" else payload.encode(errors="surrogateescape")


def _encode(arguments: list[str]) -> bytes:
    try:
        return msgspec.json.encode(dict(_pair(argument) for argument in arguments))
    except UnicodeEncodeError:
        raise InvalidJson("the arguments are not UTF-8; give them as JSON with --json") from None


def _pair(argument: str) -> tuple[str, Any]:
    key, equals, text = argument.partition("=")
    if not equals or not key:
        raise InvalidJson(f"{argument[:60]!r} is not KEY=VALUE; write for example text=hello")
    try:
        return key, msgspec.json.decode(text)
    except msgspec.DecodeError:
        return key, text


@contextlib.asynccontextmanager
async def _progress(session: Session, task_id: str) -> AsyncGenerator[None]:
    """Show how far a task says it is while the body waits; needs a terminal and the history's address."""
    if not sys.stderr.isatty() or not session.settings.database_url:
        yield
        return
    drawing = asyncio.create_task(_draw(session, task_id))
    try:
        yield
    finally:
        drawing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await drawing


async def _draw(session: Session, task_id: str) -> None:
    from services.cli.bar import Bar

    bar = Bar()
    reader = await session.reader()
    try:
        async with contextlib.aclosing(reader.follow(task_id=task_id)) as feed:
            async for batch in feed:
                for progress in batch.progress.values():
                    bar.show(progress.fraction, progress.message)
    finally:
        bar.clear()


Ids = Annotated[list[str], typer.Argument(metavar="ID|last...", help="Ids of tasks, or `last`.")]


def cancel(ids: Ids, reason: Reason = "", data: Data = None) -> None:
    """Cancel tasks: a waiting one ends at once, a running one is told to stop."""
    _act("cancel", ids, reason, data)


def retry(
    ids: Ids,
    payload: Annotated[
        str | None, typer.Option("--json", metavar="JSON", help="Other arguments for its new life.")
    ] = None,
    reason: Reason = "",
    data: Data = None,
) -> None:
    """Give dead or cancelled tasks a new life under the same id."""
    if payload is None:
        _act("retry", ids, reason, data)
        return

    async def do(session: Session) -> None:
        client = await session.client()
        for word in ids:
            task_id = await session.task_id(word)
            state = await client.retry(task_id, msgspec.Raw(payload.encode()), actor=actor(), reason=reason)
            print_line(f"{task_id}  {state}")

    work(data, do)


def _act(name: str, ids: list[str], reason: str, data: Any) -> None:
    """Apply an action of the registry to each task; says each one's state after it."""
    from taskq_core.actions import find_action

    action = find_action(name)

    async def do(session: Session) -> None:
        client = await session.client()
        for word in ids:
            task_id = await session.task_id(word)
            state = await action.apply(client, task_id, actor(), reason)
            print_line(f"{task_id}  {state}")

    work(data, do)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    for verb in (submit, cancel, retry):
        app.command()(verb)
