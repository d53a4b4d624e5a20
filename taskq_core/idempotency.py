"""Idempotency-Key: the same request, sent twice within a day, makes one task.

The key is reserved with the task's id and digest before the submit, and marked done after it. A request
that finds a reservation which is not done finishes it: the same id is submitted again, which is harmless.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from taskq_core.broker.functions import Broker
from taskq_core.errors import Conflict, HistoryBehind, InvalidOption
from taskq_core.model.task import Submission

__all__ = ["Reservation", "check_key", "finish", "reserve"]

KEPT_S = 86_400
MAX_KEY = 255


class Reservation(msgspec.Struct, frozen=True, array_like=True):
    """What a key was used for."""

    id: str
    digest: str
    done: bool


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
    if there is None:
        return ours
    if there.digest != wanted.digest:
        raise Conflict(f"this Idempotency-Key was used for another request: task {there.id}")
    return there


async def finish(broker: Broker, key_id: str, key: str, reservation: Reservation) -> None:
    """Mark it done, for what is left of its day."""
    done = Reservation(reservation.id, reservation.digest, done=True)
    await _set(broker, key_id, key, done, xx=True, keepttl=True)


def too_late(task_id: str) -> HistoryBehind:
    """The error for a reservation whose submit was lost too long ago to be repeated blindly."""
    return HistoryBehind(f"whether task {task_id} was accepted is not known yet; try again")


async def _set(broker: Broker, key_id: str, key: str, value: Reservation, **how: Any) -> Reservation | None:
    """SET … GET: the value that stood there before."""
    name = broker.keys.idempotency(key_id, hashlib.sha256(key.encode()).hexdigest())
    if "keepttl" not in how:
        how["ex"] = KEPT_S
    before = await broker.redis.set(name, msgspec.json.encode(value), get=True, **how)
    return None if before is None else msgspec.json.decode(before, type=Reservation)
