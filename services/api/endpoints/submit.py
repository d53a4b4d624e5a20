"""POST /api/tasks and /api/tasks/batch."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from services.api.endpoints.route import NDJSON, Answer, Asked, NoQuery, Service
from taskq_core.client import Request
from taskq_core.clock import format_ms
from taskq_core.errors import InvalidJson, InvalidOption, TaskqError, TooLarge
from taskq_core.model.codec import MAX_PAYLOAD, decode_json
from taskq_core.model.options import CallOptions
from taskq_core.model.order import Receipt
from taskq_core.words import nearest

__all__ = [
    "BATCH_BYTES",
    "BATCH_TASKS",
    "TASK_BYTES",
    "Accepted",
    "BatchAccepted",
    "BatchError",
    "submit",
    "submit_batch",
]

TASK_BYTES = MAX_PAYLOAD + 16 * 1024  # the options have their own, smaller limits
BATCH_BYTES = 16 << 20
BATCH_TASKS = 10_000
_PER_TURN = 200  # elements that are read before other requests get their turn
_FIELDS = frozenset({"name", "payload", *CallOptions.__struct_fields__})
_LIST = re.compile(rb'\s*\{\s*"tasks"\s*:\s*(\[.*\])\s*\}\s*', re.DOTALL)


class Accepted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The task that now exists; state and time are null for a duplicate that Redis no longer knows."""

    id: str
    state: str | None
    name: str
    queue: str
    submitted_at: str | None
    deduplicated: bool = False  # an earlier task is given back


class BatchError(msgspec.Struct, frozen=True, kw_only=True):
    """Why one element was refused."""

    index: int
    code: str
    detail: str


class BatchAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """Ids in the order of the request; null where an element was refused."""

    ids: list[str | None]
    errors: list[BatchError]


class _Payload(msgspec.Struct, gc=False):
    """The payload as it was sent, byte for byte."""

    payload: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_payloads = msgspec.json.Decoder(_Payload)
_lists = msgspec.json.Decoder(list[msgspec.Raw])


async def submit(service: Service, asked: Asked[NoQuery]) -> Answer:
    """Accept one task: 202; 200 when an earlier one is given back."""
    request = read_task(asked.body)
    name, payload, options = request.name, request.payload, dict(request.options)
    if asked.idempotency_key is None:
        handle = await service.client.submit(name, payload, actor=asked.actor, **options)
        first = True
    else:
        handle, first = await service.client.submit_idempotent(
            name,
            payload,
            key_id=asked.key.id if asked.key else "",
            idempotency_key=asked.idempotency_key,
            actor=asked.actor,
            **options,
        )
    return _answer(handle.receipt, fresh=first and not handle.receipt.deduplicated)


def _answer(receipt: Receipt, *, fresh: bool) -> Answer:
    body = Accepted(
        id=receipt.id,
        state=receipt.state or None,
        name=receipt.name,
        queue=receipt.queue,
        submitted_at=format_ms(receipt.submitted_at or None),
        deduplicated=not fresh,
    )
    location = {"Location": f"/api/tasks/{receipt.id}"}
    return Answer(body=body, status=202 if fresh else 200, headers=location)


async def submit_batch(service: Service, asked: Asked[NoQuery]) -> Answer:
    """Accept many tasks in order; what is refused is told in its place."""
    elements = _split_lines(asked.body) if asked.media in NDJSON else _split_list(asked.body)
    if len(elements) > BATCH_TASKS:
        raise TooLarge(f"{len(elements)} tasks; a batch takes at most {BATCH_TASKS}")
    read = await _read_all(elements)
    requests = [one for one in read if isinstance(one, Request)]
    replies = iter(await service.client.submit_batch(requests, actor=asked.actor) if requests else ())
    ids: list[str | None] = []
    errors: list[BatchError] = []
    for index, one in enumerate(read):
        reply = next(replies) if isinstance(one, Request) else one
        if isinstance(reply, Receipt):
            ids.append(reply.id)
        else:
            ids.append(None)
            errors.append(BatchError(index=index, code=reply.code, detail=str(reply)))
    return Answer(body=BatchAccepted(ids=ids, errors=errors), status=202)


async def _read_all(elements: Sequence[bytes | msgspec.Raw]) -> list[Request | TaskqError]:
    read: list[Request | TaskqError] = []
    for number, element in enumerate(elements, 1):
        try:
            read.append(read_task(bytes(element)))
        except TaskqError as error:
            read.append(error)
        if number % _PER_TURN == 0:
            await asyncio.sleep(0)
    return read


def read_task(raw: bytes) -> Request:
    """One task of a request. Raises InvalidJson, InvalidOption, TooLarge."""
    given = decode_json(raw, TASK_BYTES)
    if not isinstance(given, dict):
        raise InvalidOption("a task is a JSON object with name and payload")
    options: dict[str, Any] = given  # pyright: ignore[reportUnknownVariableType]
    for field in options:
        if field not in _FIELDS:
            raise InvalidOption(f"unknown field {field[:60]!r}: {nearest(field, _FIELDS)}")
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise InvalidOption("name: the name of a registered task is needed, as text")
    payload: Any = None
    if "payload" in options:
        del options["payload"]
        payload = _payloads.decode(raw).payload
    return Request(name, payload, options)


def _split_lines(body: bytes) -> list[bytes]:
    return [line for line in body.splitlines() if line.strip()]


def _split_list(body: bytes) -> list[msgspec.Raw]:
    """The elements, unread. What stands twice or beside them makes no list here and is refused."""
    found = _LIST.fullmatch(body)
    try:
        if found:
            return _lists.decode(found[1])
        _ = msgspec.json.decode(body)
    except msgspec.MsgspecError as error:
        raise InvalidJson(f"not a JSON list of tasks: {error}") from None
    except RecursionError:
        raise InvalidJson("nested too deep") from None
    raise InvalidOption('the body must be {"tasks": […]} and nothing else, or one task a line as NDJSON')
