"""Idempotency-Key: the same request, sent twice within a day, makes one task.

The key is reserved with the task's id and digest before the submit, and marked done after it. A request
that finds a reservation which is not done finishes it: the same id is submitted again, which is harmless.
An id that is too old for that is looked for in the history; when it was never accepted, a fresh id takes its
place in the reservation.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from redis.exceptions import WatchError

from taskq_core.broker.functions import Broker
from taskq_core.errors import Conflict, HistoryBehind, InvalidOption
from taskq_core.model.task import Submission

__all__ = ["Reservation", "check_key", "finish", "replace", "reserve", "too_late"]

KEPT_S = 86_400
MAX_KEY = 255


class Reservation(msgspec.Struct, frozen=True, array_like=True):
    """What a key was used for."""

    id: str
    digest: str
    done: bool


_decode = msgspec.json.Decoder(Reservation).decode


def check_key(key: str) -> str:
    """The key itself. Raises InvalidOption for an empty, long or unprintable one."""
    if not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise InvalidOption(f"Idempotency-Key must be 1 to {MAX_KEY} printable ASCII characters")
    return key


async def reserve(broker: Broker, key_id: str, key: str, wanted: Submission) -> Reservation:
    """The reservation that now stands: ours, or the one that was there.

    Raises Conflict, naming the first task, when the key was used for something else.
    """
    ours = Reservation(wanted.id, wanted.digest, done=False)
    there = await _set(broker, key_id, key, ours, nx=True)
    return ours if there is None else _checked(there, wanted.digest)


async def finish(broker: Broker, key_id: str, key: str, reservation: Reservation, task_id: str) -> None:
    """Mark it done by this task, for what is left of its day. A unique key may have led to another id."""
    done = Reservation(task_id, reservation.digest, done=True)
    await _set(broker, key_id, key, done, xx=True, keepttl=True)


async def replace(broker: Broker, key_id: str, key: str, lost: Reservation, ours: Reservation) -> Reservation:
    """The reservation that now stands: ours in the place of the lost one, or what someone else put there.

    Raises Conflict as `reserve` does.
    """
    name = _name(broker, key_id, key)
    while True:
        async with broker.redis.pipeline(transaction=True) as pipe:
            await pipe.watch(name)
            raw = await pipe.get(name)
            there = None if raw is None else _decode(raw)
            if there is not None and there != lost:
                return _checked(there, ours.digest)
            pipe.multi()
            how: dict[str, Any] = {"ex": KEPT_S} if there is None else {"keepttl": True}
            pipe.set(name, msgspec.json.encode(ours), **how)
            try:
                await pipe.execute()
            except WatchError:  # someone was quicker: see what stands there
                continue
            return ours


def _checked(there: Reservation, digest: str) -> Reservation:
    if there.digest != digest:
        raise Conflict(f"this Idempotency-Key was used for another request: task {there.id}")
    return there


def too_late(task_id: str) -> HistoryBehind:
    """The error for a reservation whose submit was lost too long ago to be repeated blindly."""
    return HistoryBehind(f"whether task {task_id} was accepted is not known yet; try again")


async def _set(broker: Broker, key_id: str, key: str, value: Reservation, **how: Any) -> Reservation | None:
    """SET … GET: the value that stood there before."""
    name = _name(broker, key_id, key)
    if "keepttl" not in how:
        how["ex"] = KEPT_S
    before = await broker.redis.set(name, msgspec.json.encode(value), get=True, **how)
    return None if before is None else _decode(before)


def _name(broker: Broker, key_id: str, key: str) -> str:
    return broker.keys.idempotency(key_id, hashlib.sha256(key.encode()).hexdigest())
