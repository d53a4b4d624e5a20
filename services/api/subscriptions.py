"""What a WebSocket client asks for and is told: messages, filters, subscriptions, its bounded outbox."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from services.api.live import Deliver, Live
from taskq_core.clock import monotonic_ns
from taskq_core.errors import InvalidJson, InvalidOption
from taskq_core.model.lifecycle import MOVES, Kind, State
from taskq_core.read.views import EventView, FeedBatch, ProgressView
from taskq_core.words import nearest

__all__ = ["Filter", "Op", "Outbox", "Subscription", "Tokens", "read_op"]

MAX_ID = 100
OUTBOX_MESSAGES = 256
OUTBOX_BYTES = 4 << 20
_encode = msgspec.json.Encoder().encode
_AFTER: dict[Kind, set[State]] = {}
for (_, _kind), _states in MOVES.items():
    _AFTER.setdefault(_kind, set()).update(_states)


class Filter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events; each given value must equal. `state` is the one that the event leads to."""

    state: State | None = None
    queue: str | None = None
    name: str | None = None
    id: str | None = None  # of the task

    @property
    def wants_labels(self) -> bool:
        """Whether name or queue matter."""
        return self.queue is not None or self.name is not None

    def matches(self, event: EventView, live: Live) -> bool:
        """Whether the event is asked for. An event whose task's name is not known matches no name."""
        if self.id is not None and event.task_id != self.id:
            return False
        if self.state is not None and self.state not in _states_after(event):
            return False
        if not self.wants_labels:
            return True
        name, queue = live.labels(event)
        return self.name in {None, name} and self.queue in {None, queue}


def _states_after(event: EventView) -> set[State]:
    if event.kind is Kind.SUBMITTED:
        return {State.SCHEDULED if event.detail.get("due_at") else State.QUEUED}
    return _AFTER.get(event.kind, set())


class Op(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message of a client."""

    op: str  # auth, subscribe, unsubscribe
    token: str | None = None
    id: str | None = None
    filter: Filter = Filter()
    after: str | None = None


_OPS = ("auth", "subscribe", "unsubscribe")
_ops = msgspec.json.Decoder(Op)


def read_op(text: str | bytes) -> Op:
    """A client's message. Raises InvalidJson, InvalidOption."""
    try:
        op = _ops.decode(text)
    except msgspec.ValidationError as error:
        raise InvalidOption(str(error)[:200]) from None
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidJson(f"not JSON: {error}"[:200]) from None
    if op.op not in _OPS:
        raise InvalidOption(f"unknown op {op.op[:40]!r}: {nearest(op.op, _OPS)}")
    if op.op != "auth" and (op.id is None or not 0 < len(op.id) <= MAX_ID):
        raise InvalidOption(f"{op.op} needs an id of 1 to {MAX_ID} characters, of your choice")
    return op


class Subscription:
    """One stream of messages on a socket, under the id that the client chose."""

    def __init__(self, id: str, wanted: Filter, live: Live) -> None:
        self.id = id
        self.wanted = wanted
        self.work: asyncio.Task[None] | None = None
        self.deliver: Deliver | None = None
        self.sent: str | None = None  # the cursor behind which the client may resume
        self.cursor: str | None = None  # of the last batch, whether it held anything for us or not
        self._live = live

    def messages(self, batch: FeedBatch) -> list[bytes]:
        """What a batch means to this client."""
        self.cursor = batch.cursor
        told: list[bytes] = []
        if batch.missed:
            told.append(self.message("gap", missed=batch.missed))
        events = [event for event in batch.events if self.wanted.matches(event, self._live)]
        progress = self._progress(batch.progress)
        if events or progress:
            told.append(self.message("events", events=events, progress=progress))
        return told

    def message(self, kind: str, **members: Any) -> bytes:
        """A message of this subscription with its cursor."""
        return _encode({"type": kind, "id": self.id, "cursor": self.cursor, **members})

    def _progress(self, told: Mapping[str, ProgressView]) -> dict[str, ProgressView]:
        wanted = self.wanted
        if wanted.id is not None:
            return {wanted.id: told[wanted.id]} if wanted.id in told else {}
        if wanted.wants_labels or wanted.state not in {None, State.RUNNING}:
            return {}
        return dict(told)


class Outbox:
    """Messages that wait for a client to read; it never grows beyond its bounds."""

    def __init__(self) -> None:
        self._messages: deque[tuple[bytes, Subscription | None, str | None]] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        self._none = asyncio.Event()  # everything that was taken has been sent, and nothing is left

    async def emptied(self) -> None:
        """Wait until everything has been sent."""
        if self._messages or self._some.is_set():
            self._none.clear()
            _ = await self._none.wait()

    def put(self, text: bytes, subscription: Subscription | None = None) -> bool:
        """Add a message; False when it no longer fits. A large one fits when nothing else waits."""
        full = len(self._messages) >= OUTBOX_MESSAGES or self._bytes + len(text) > OUTBOX_BYTES
        if full and self._messages:
            return False
        self._messages.append((text, subscription, subscription.cursor if subscription else None))
        self._bytes += len(text)
        self._some.set()
        return True

    def clear(self) -> None:
        """Drop everything."""
        self._messages.clear()
        self._bytes = 0

    async def take(self) -> tuple[bytes, Subscription | None, str | None]:
        """The oldest message, its subscription, and the cursor that holds once it is sent."""
        while not self._messages:
            self._none.set()
            self._some.clear()
            _ = await self._some.wait()
        taken = self._messages.popleft()
        self._bytes -= len(taken[0])
        return taken


class Tokens:
    """A bucket that fills with `rate` tokens a second, up to `most`."""

    def __init__(self, rate: float, most: float) -> None:
        self._rate = rate
        self._most = most
        self._left = most
        self._at = monotonic_ns()

    def take(self) -> bool:
        """Whether one was left."""
        now = monotonic_ns()
        self._left = min(self._most, self._left + (now - self._at) / 1e9 * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
