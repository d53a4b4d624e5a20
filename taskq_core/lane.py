"""The short way for submissions: one connection, no pool, no client library in between.

The Redis library opens the connection (TLS, password, socket file) and hands it over; from then on requests
and replies pass through here, at about a third of the cost. The lane decides nothing: whatever is not a
plain good answer (an error, a lost connection, too large a request) is answered by None, and the caller
repeats the same ids through the broker, which knows what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
import msgspec
from redis.exceptions import RedisError

from taskq_core.broker.functions import CALL_BYTES, CALL_TASKS
from taskq_core.broker.library import load_library
from taskq_core.broker.protocol import Submitted
from taskq_core.broker.redis import make_redis
from taskq_core.clock import monotonic_ns
from taskq_core.model.task import Submission

__all__ = ["Lane"]

ANSWER_S = 10.0
_SECOND_NS = 1_000_000_000
_encode = msgspec.msgpack.Encoder().encode
_submitted = msgspec.msgpack.Decoder(list[Submitted])


class Lane:
    """Calls of the function `submit` on one event loop."""

    def __init__(self, url: str, events_key: str) -> None:
        self._url = url
        head = [b"FCALL", load_library().function("submit").encode(), b"1", events_key.encode()]
        self._head = b"*5\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in head)
        self._pipe: _Pipe | None = None
        self._connection: Any = None
        self._connecting = False
        self._rest_until = 0  # monotonic ns: no new connection before

    @property
    def is_open(self) -> bool:
        """Whether requests leave in the order in which they are handed in."""
        return self._pipe is not None and not self._pipe.broken

    async def open(self) -> None:
        """Connect now rather than at the first submit; whether it works or not."""
        if not self.is_open:
            await self._connect()

    async def submit(self, tasks: Sequence[Submission], actor: str) -> list[Submitted] | None:
        """The answers, or None: ask the broker."""
        if len(tasks) > CALL_TASKS:
            return None
        pipe = self._pipe
        if pipe is None or pipe.broken:
            pipe = await self._connect()
            if pipe is None:
                return None
        packed = _encode((actor, tasks))
        if len(packed) > CALL_BYTES:
            return None
        reply = await pipe.call(b"%b$%d\r\n%b\r\n" % (self._head, len(packed), packed))
        return _submitted.decode(reply) if type(reply) is bytes else None

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection, self._pipe = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect()

    async def _connect(self) -> _Pipe | None:
        """A new pipe; None while another caller is at it, and for a while after a failure."""
        if self._connecting or monotonic_ns() < self._rest_until:
            return None
        self._connecting = True
        self._rest_until = monotonic_ns() + round(random.uniform(0.5, 1.5) * _SECOND_NS)
        try:
            await self.close()
            self._connection = await make_redis(
                self._url, name="taskq-submit"
            ).connection_pool.get_connection()
            self._pipe = _take_over(self._connection)
        except (RedisError, OSError):
            return None
        finally:
            self._connecting = False
        return self._pipe


class _Pipe(asyncio.Protocol):
    """Requests out, replies in, in the same order."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._before = transport.get_protocol()  # wants to hear of the end
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._loop = asyncio.get_running_loop()
        self._answered_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self.broken = False
        transport.set_protocol(self)

    def call(self, request: bytes) -> asyncio.Future[Any]:
        """The raw reply; None when the connection broke."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.broken or self._transport.is_closing():
            future.set_result(None)
            return future
        if not self._waiting:
            self._answered_at = self._loop.time()
        self._waiting.append(future)
        self._transport.write(request)
        if self._watch is None:
            self._watch = self._loop.call_later(ANSWER_S, self._check_answers)
        return future

    def data_received(self, data: bytes) -> None:
        """Hand out whole replies."""
        self._reader.feed(data)
        self._answered_at = self._loop.time()
        try:
            while (reply := self._reader.gets()) is not False:
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Every caller that still waits asks the broker."""
        self.broken = True
        if self._watch is not None:
            self._watch.cancel()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
        cast(asyncio.Protocol, self._before).connection_lost(exc)

    def _check_answers(self) -> None:
        """One timer for all calls; a server that owes an answer for too long is given up."""
        self._watch = None
        if not self._waiting:
            return
        left = self._answered_at + ANSWER_S - self._loop.time()
        if left <= 0:
            self._transport.abort()
        else:
            self._watch = self._loop.call_later(left, self._check_answers)


def _take_over(connection: Any) -> _Pipe | None:
    """The transport under a connection of the Redis library; None when a later version hides it elsewhere."""
    writer = getattr(connection, "_writer", None)
    return _Pipe(writer.transport) if isinstance(writer, asyncio.StreamWriter) else None
