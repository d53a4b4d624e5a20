"""The views of tasks, and what may be done to one."""

from __future__ import annotations

from typing import Any

import msgspec

from services.api.endpoints.route import Answer, Asked, NoQuery, Query, Service
from taskq_core.errors import InvalidOption, NotFound, TaskCancelled, TaskDead
from taskq_core.model.codec import decode_json, encode_json
from taskq_core.model.ids import check_id
from taskq_core.model.lifecycle import ENDED, State
from taskq_core.read.reader import DEFAULT_LIMIT
from taskq_core.read.views import AttemptList, EventList, TaskList, TaskView
from taskq_core.words import nearest

__all__ = [
    "MAX_WAIT_S",
    "Done",
    "ListEvents",
    "ListTasks",
    "Result",
    "WaitFor",
    "cancel",
    "list_attempts",
    "list_events",
    "list_tasks",
    "result",
    "retry",
    "show_task",
]

MAX_WAIT_S = 60.0
MAX_REASON = 500
_ASK_S = 1.5  # for what has ended already


class ListTasks(Query, frozen=True, kw_only=True):
    """Which tasks; every given value must equal."""

    state: str | None = None
    queue: str | None = None
    name: str | None = None
    limit: int = DEFAULT_LIMIT  # 1 to 500
    cursor: str | None = None  # `next` of the page before


class ListEvents(Query, frozen=True, kw_only=True):
    """Which page of a task's events."""

    limit: int = DEFAULT_LIMIT
    cursor: str | None = None


class WaitFor(Query, frozen=True, kw_only=True):
    """How long to wait for the end, in seconds, at most 60; 0: answer at once."""

    wait: float = 0.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a task; result and error are null while it has not ended."""

    id: str
    state: str
    result: Any = None
    error: Any = None


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The state after an action; `running` when the runner has been told to stop."""

    id: str
    state: str


async def list_tasks(service: Service, asked: Asked[ListTasks]) -> TaskList:
    """A page of tasks, most recent first."""
    query = asked.query
    return await service.reader.tasks(
        state=query.state, queue=query.queue, name=query.name, limit=query.limit, cursor=query.cursor
    )


async def show_task(service: Service, asked: Asked[NoQuery]) -> TaskView:
    """One task."""
    return await service.reader.task(asked.task_id)


async def list_events(service: Service, asked: Asked[ListEvents]) -> EventList:
    """What happened to a task, first things first."""
    query = asked.query
    return await service.reader.events(asked.task_id, limit=query.limit, cursor=query.cursor)


async def list_attempts(service: Service, asked: Asked[NoQuery]) -> AttemptList:
    """The attempts of a task."""
    return await service.reader.attempts(asked.task_id)


async def result(service: Service, asked: Asked[WaitFor]) -> Answer:
    """What came of it: 200 when it has ended, however; 202 when it still lives after the wait."""
    wait = asked.query.wait
    if not 0 <= wait <= MAX_WAIT_S:
        raise InvalidOption(f"wait must lie between 0 and {MAX_WAIT_S:g} seconds, not {wait!r:.40}")
    task_id = check_id(asked.task_id)
    if wait == 0:
        view = await service.reader.task(task_id)
        if view.state not in ENDED:
            return _alive(view)
    try:
        return await _ended(service, task_id, wait or _ASK_S)
    except TimeoutError:
        return _alive(await service.reader.task(task_id))
    except NotFound:  # Redis has forgotten it; the history has not
        view = await service.reader.task(task_id)
        return Answer(body=Result(id=task_id, state=view.state, result=view.result, error=view.error))


def _alive(view: TaskView) -> Answer:
    return Answer(body=Result(id=view.id, state=view.state), status=202)


async def _ended(service: Service, task_id: str, wait: float) -> Answer:
    try:
        raw = await service.client.raw_result(task_id, wait)
    except TaskDead as dead:
        return Answer(body=Result(id=task_id, state=State.DEAD, error=dead.error))
    except TaskCancelled:
        return Answer(body=Result(id=task_id, state=State.CANCELLED))
    return Answer(body=Result(id=task_id, state=State.SUCCEEDED, result=msgspec.Raw(raw)))


async def cancel(service: Service, asked: Asked[NoQuery]) -> Done:
    """Cancel one task. The body may hold `reason`."""
    given = _read_fields(asked.body, "reason")
    state = await service.client.cancel(asked.task_id, actor=asked.actor, reason=_reason(given))
    return Done(id=check_id(asked.task_id), state=state)


async def retry(service: Service, asked: Asked[NoQuery]) -> Done:
    """Give a dead or cancelled task a new life. The body may hold `payload` and `reason`."""
    given = _read_fields(asked.body, "payload", "reason")
    payload = msgspec.json.decode(asked.body, type=_Payload).payload if "payload" in given else None
    state = await service.client.retry(asked.task_id, payload, actor=asked.actor, reason=_reason(given))
    return Done(id=check_id(asked.task_id), state=state)


class _Payload(msgspec.Struct):
    payload: msgspec.Raw


def _read_fields(body: bytes, *known: str) -> dict[str, Any]:
    """The fields of an optional body. Raises InvalidJson, InvalidOption."""
    if not body.strip():
        return {}
    given = decode_json(body)
    if not isinstance(given, dict):
        raise InvalidOption("the body must be a JSON object")
    fields: dict[str, Any] = given  # pyright: ignore[reportUnknownVariableType]
    for name in fields:
        if name not in known:
            raise InvalidOption(f"unknown field {name[:60]!r}: {nearest(name, known)}")
    return fields


def _reason(given: dict[str, Any]) -> str:
    reason = given.get("reason") or ""
    if not isinstance(reason, str) or len(reason) > MAX_REASON:
        raise InvalidOption(f"reason must be text of at most {MAX_REASON} characters")
    encode_json(reason)
    return reason
