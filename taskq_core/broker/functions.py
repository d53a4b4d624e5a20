"""One typed stub for each function in lua/, on one connection set: the broker.

Every call is safe to repeat, so that a lost answer is met by asking again (full jitter, 0.05 s up to
5 s, for as long as the caller's patience). A missing library is loaded again where the user may do so.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Self, cast

import msgspec
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError, ResponseError

from taskq_core.broker.keys import STREAMS, ShardKeys
from taskq_core.broker.library import Library, load_library
from taskq_core.broker.protocol import (
    Cancelled,
    Finish,
    Promoted,
    Reclaimed,
    Renewed,
    Settled,
    Submitted,
    Swept,
    Taken,
    TakenHead,
    TakeWant,
    TaskState,
)
from taskq_core.broker.redis import check_server, is_missing_function, is_retryable, make_redis
from taskq_core.clock import ServerClock, monotonic_ns
from taskq_core.errors import BrokerNotInitialised, Full, TaskqError, Unavailable
from taskq_core.model.event import LiveMessage, decode_live
from taskq_core.model.ids import new_ids
from taskq_core.model.task import Submission

__all__ = ["CALL_BYTES", "CALL_TASKS", "Broker"]

CALL_TASKS = 250  # a larger call keeps more objects alive in the server and is slower by the task
CALL_BYTES = 1 << 20
EVENTS_KEPT_MS = 60_000
EVENTS_KEPT = 100_000

_encode = msgspec.msgpack.Encoder().encode
_submitted = msgspec.msgpack.Decoder(list[Submitted])
_settled = msgspec.msgpack.Decoder(list[Settled])
_taken = msgspec.msgpack.Decoder(TakenHead)
_renewed = msgspec.msgpack.Decoder(Renewed)
_reclaimed = msgspec.msgpack.Decoder(Reclaimed)
_swept = msgspec.msgpack.Decoder(Swept)
_promoted = msgspec.msgpack.Decoder(Promoted)
_cancelled = msgspec.msgpack.Decoder(Cancelled)
_numbers = msgspec.msgpack.Decoder(list[int])
_flags = msgspec.msgpack.Decoder(list[bool])


class Broker:
    """One shard, as one process uses it. Make it with `connect`; it is an async context manager."""

    def __init__(self, url: str, client: Any, library: Library, keys: ShardKeys) -> None:
        self.url = url
        self.redis = client
        self.keys = keys
        self.clock = ServerClock()
        self.patience = 60.0  # seconds that a call is repeated before Unavailable is raised
        self._library = library

    @classmethod
    async def connect(cls, url: str, *, name: str = "", patience: float = 60.0) -> Self:
        """Check the server, load the library where needed, read the clock.

        Raises ConfigError for an unfit server, Unavailable when it does not answer within 5 s.
        """
        client = make_redis(url, name=name)
        broker = cls(url, client, load_library(), ShardKeys())
        broker.patience = patience
        try:
            await broker._prepare()
        except BaseException:
            await client.aclose()
            raise
        return broker

    async def _prepare(self) -> None:
        deadline = monotonic_ns() + 5_000_000_000
        while True:
            try:
                await check_server(self.redis)
                break
            except (Unavailable, RedisError) as error:
                passing = isinstance(error, Unavailable) or is_retryable(error)
                if not passing or monotonic_ns() > deadline:
                    raise
                await asyncio.sleep(random.uniform(0.02, 0.2))
        await self.load()
        await self.read_clock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()

    async def fork(self, *, name: str = "") -> Broker:
        """The same broker over a connection of its own, for one caller that is never concurrent."""
        twin = Broker(self.url, make_redis(self.url, single=True, name=name), self._library, self.keys)
        twin.clock = self.clock
        twin.patience = self.patience
        return twin

    async def load(self) -> None:
        """Load the function library unless it stands. Raises BrokerNotInitialised when not allowed."""
        try:
            await self.redis.function_load(self._library.text)
        except OutOfMemoryError:
            # A full server takes no library, but what stands there still drains.
            if not await self._library_stands():
                raise
        except NoPermissionError as error:
            if await self._library_stands():
                return
            message = (
                "the function library is missing and this Redis user may not load it: run `taskq migrate`"
            )
            raise BrokerNotInitialised(message) from error
        except ResponseError as error:
            if "already exists" not in str(error):
                raise

    async def _library_stands(self) -> bool:
        try:
            await self.redis.fcall(
                self._library.function("ensure"), 1, self.keys.events, _encode([[], [], 0])
            )
        except ResponseError as error:
            if is_missing_function(error):
                return False
            raise
        return True

    # --- calling

    async def _call(self, function: str, request: object, keys: Sequence[str] = ()) -> Any:
        """Call until an answer comes or the patience ends."""
        packed = _encode(request)
        name = self._library.function(function)
        started = monotonic_ns()
        pause = 0.05
        while True:
            try:
                return await self.redis.execute_command(
                    "FCALL", name, 1 + len(keys), self.keys.events, *keys, packed
                )
            except OutOfMemoryError as error:
                message = "Redis is full and takes no new tasks: let it drain, or raise maxmemory"
                raise Full(message) from error
            except (RedisError, OSError) as error:
                if is_missing_function(error):
                    await self.load()
                elif not is_retryable(error):
                    raise
                if monotonic_ns() - started > self.patience * 1e9:
                    message = f"Redis did not answer for {self.patience:.0f} s: {error}"
                    raise Unavailable(message) from error
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(pause * 2, 5.0)

    async def read_clock(self) -> None:
        """Take the server's time anew: it may have jumped."""
        seconds, micros = await self.redis.time()
        self.clock.set(int(seconds), int(micros))

    async def new_ids(self, count: int) -> list[str]:
        """New ids in server time."""
        if self.clock.is_stale():
            await self.read_clock()
        return new_ids(count, self.clock.now_ms(), self.keys.shard)

    # --- tasks come in

    async def submit(self, tasks: Sequence[Submission], actor: str = "") -> list[Submitted]:
        """Accept tasks, in calls of at most 250 tasks and 1 MiB. Raises Full, Unavailable."""
        replies: list[Submitted] = []
        for part in _parts(tasks):
            replies += _submitted.decode(await self._call("submit", [actor, part]))
        return replies

    # --- leases

    def _stream_keys(self, want: TakeWant) -> list[str]:
        return [self.keys.ready(wanted.queue, stream) for wanted in want.queues for stream in want.streams]

    async def ensure(self, queues: Sequence[str], lease_ms: int = 0) -> tuple[int, int]:
        """Make the groups; answers (lease in ms that this system uses, incarnation)."""
        lease, incarnation = _numbers.decode(await self._call("ensure", [queues, STREAMS, lease_ms]))
        return lease, incarnation

    async def take(self, want: TakeWant) -> Taken:
        """Claim tasks up to the free slots."""
        return _read_taken(await self._call("take", want, self._stream_keys(want)))

    async def settle(self, owner: str, finishes: Sequence[Finish]) -> list[Settled]:
        """End leases."""
        settled: list[Settled] = []
        for start in range(0, len(finishes), CALL_TASKS):
            part = finishes[start : start + CALL_TASKS]
            settled += _settled.decode(await self._call("settle", [owner, part]))
        return settled

    async def settle_take(self, want: TakeWant, finishes: Sequence[Finish]) -> Taken:
        """End leases and claim tasks in one round trip."""
        return _read_taken(await self._call("settle_take", [want, finishes], self._stream_keys(want)))

    async def renew(self, owner: str, leases: Sequence[tuple[str, str, int]]) -> Renewed:
        """Keep leases (task id, entry, epoch) alive."""
        at, lost, cancelled = 0, list[str](), list[str]()
        for start in range(0, len(leases), CALL_TASKS):
            answer = _renewed.decode(await self._call("renew", [owner, leases[start : start + CALL_TASKS]]))
            at, lost, cancelled = answer.at, lost + answer.lost, cancelled + answer.cancelled
        return Renewed(at, lost, cancelled)

    async def reclaim(
        self, queues: Sequence[str], lease_ms: int, most: int, suspects: Sequence[str]
    ) -> Reclaimed:
        """Act on leases that ran out; hand in the suspects of the scan before."""
        request = [_pairs(queues), lease_ms, most, suspects, random.random()]
        return _reclaimed.decode(await self._call("reclaim", request))

    async def sweep(
        self, owner: str, queues: Sequence[str], known: Sequence[str], suspects: Sequence[str], reason: str
    ) -> Swept:
        """Give back what a runner has pending and not in its slots; suspects ['*']: all of it, now."""
        return _swept.decode(await self._call("sweep", [owner, _pairs(queues), known, suspects, reason]))

    async def gc_consumer(self, queues: Sequence[str], idle_ms: int, alive: Sequence[str]) -> int:
        """Forget consumers that hold nothing and are idle that long."""
        return _numbers.decode(await self._call("gc_consumer", [_pairs(queues), idle_ms, alive]))[0]

    async def promote(self) -> Promoted:
        """Move what is due into its line, a hundred tasks at most."""
        return _promoted.decode(await self._call("promote", []))

    async def unpark(self, names: Sequence[str], queues: Sequence[str], rest_ms: int = 1000) -> int:
        """Give parked tasks of these names back to their lines, when they belong to these queues."""
        request = [names, rest_ms, queues, random.random()]
        return _numbers.decode(await self._call("unpark", request))[0]

    async def progress(self, owner: str, task_id: str, epoch: int, fraction: float, message: str) -> bool:
        """Report progress; answers whether a cancellation was asked."""
        reply = await self._call("progress", [owner, task_id, epoch, fraction, message])
        return _flags.decode(reply)[0]

    # --- commands

    async def cancel(self, task_id: str, actor: str, reason: str) -> Cancelled:
        """End a waiting task, or ask the runner of a running one."""
        return _cancelled.decode(await self._call("cancel", [task_id, actor, reason]))

    async def retry_dead(
        self,
        task_id: str,
        actor: str,
        reason: str,
        payload: str = "",
        digest: str = "",
        restored: Sequence[object] = (),
    ) -> Cancelled:
        """A new life for a dead or cancelled task; `restored` as retry_dead.lua says."""
        request = [task_id, actor, reason, payload, digest, list(restored)]
        return _cancelled.decode(await self._call("retry_dead", request))

    async def await_end(self, task_id: str, channel: str = "") -> TaskState:
        """The state and, when it ended, what came of it; else the channel is noted."""
        state, result, error = await self._call("await", [task_id, channel])
        return TaskState(state.decode(), result, error)

    async def record(self, action: str, arguments: str, actor: str, reason: str, task_id: str = "") -> None:
        """Write an operator's act into the history."""
        await self._call("record", [action, arguments, actor, reason, task_id])

    # --- the history's side

    async def forget(self, ended: Sequence[tuple[str, int]]) -> int:
        """Let the hashes of ended tasks (id, ended at) expire: call it after COMMIT only."""
        count = 0
        for start in range(0, len(ended), CALL_TASKS):
            count += _numbers.decode(await self._call("forget", [ended[start : start + CALL_TASKS]]))[0]
        return count

    async def trim(self) -> int:
        """Drop events that every durable group has acknowledged, but the newest minute."""
        return _numbers.decode(await self._call("trim", [EVENTS_KEPT_MS, EVENTS_KEPT]))[0]

    # --- live

    async def live(self) -> AsyncIterator[LiveMessage]:
        """Live messages until the connection breaks, which raises a redis ConnectionError."""
        client = make_redis(self.url, timeout=None, name="taskq live")
        subscription = client.pubsub()
        try:
            await subscription.ssubscribe(self.keys.live)
            async for message in subscription.listen():
                if message["type"] == "smessage":
                    yield decode_live(cast("bytes", message["data"]))
        finally:
            await subscription.aclose()
            await client.aclose()


def _pairs(queues: Sequence[str]) -> list[tuple[str, str]]:
    return [(queue, stream) for queue in queues for stream in STREAMS]


def _read_taken(reply: list[bytes]) -> Taken:
    head = _taken.decode(reply[0])
    return Taken(head.at, head.claims, reply[1:], head.settled)


def _parts(tasks: Sequence[Submission]) -> Iterator[Sequence[Submission]]:
    """Split by count and by size; a single task over the size goes alone."""
    start, size = 0, 0
    for at, task in enumerate(tasks):
        weight = len(task.payload) + len(task.metadata) + 300
        if at > start and (at - start >= CALL_TASKS or size + weight > CALL_BYTES):
            yield tasks[start:at]
            start, size = at, 0
        size += weight
    if start < len(tasks):
        yield tasks[start:]


def raised(code: str) -> type[TaskqError]:
    """The error class of a code that a function answered."""
    return next(kind for kind in _all_errors(TaskqError) if kind.code == code)


def _all_errors(root: type[TaskqError]) -> Iterator[type[TaskqError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _all_errors(kind)
