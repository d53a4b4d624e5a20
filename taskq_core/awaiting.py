"""Waiting for the end of tasks by push: one channel for a whole client process.

The function `await_end` notes the channel in the task's hash; the step that ends the task publishes there.
Pub/Sub may lose a message, so everyone also asks again after a reconnect and every five seconds. What Redis
does not keep is asked of the history, where there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, cast

from redis.exceptions import RedisError

from taskq_core.broker.functions import Broker
from taskq_core.broker.protocol import TaskState
from taskq_core.broker.redis import make_redis
from taskq_core.errors import NotFound
from taskq_core.model.lifecycle import ENDED, State

__all__ = ["Awaiting"]

ASK_AGAIN_S = 5.0
MOST_CALLS = 16  # questions in flight; each holds a connection
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_ENDED = frozenset(str(state) for state in ENDED)
_log = logging.getLogger("taskq.client")


class Awaiting:
    """All the waiting of one broker."""

    def __init__(
        self, broker: Broker, forgotten: Callable[[str], Awaitable[TaskState]] | None = None
    ) -> None:
        """`forgotten` answers for a task that Redis does not keep, or raises NotFound."""
        self._broker = broker
        self._forgotten = forgotten
        self._channel = broker.keys.await_channel(secrets.token_hex(8))
        self._heard = asyncio.Event()  # set while the channel is subscribed
        self._waiters: defaultdict[str, list[asyncio.Event]] = defaultdict(list)
        self._calls = asyncio.Semaphore(MOST_CALLS)
        self._listener: asyncio.Task[None] | None = None

    async def end_of(self, task_id: str, timeout: float | None) -> TaskState:
        """The state of an ended task. Raises TimeoutError after `timeout` seconds, NotFound, Unavailable."""
        state = State.QUEUED.value
        try:
            async with asyncio.timeout(timeout):
                async for answer in self._answers(task_id):
                    state = answer.state
                    if state in _ENDED:
                        return answer
                state = "forgotten by Redis and not found in the history"
                if self._forgotten is not None:
                    return await self._forgotten(task_id)
        except TimeoutError:
            raise TimeoutError(f"task {task_id} is {state} after {timeout:g} s") from None
        raise NotFound(f"task {task_id} is not kept")

    async def close(self) -> None:
        """Stop listening; nobody may be waiting."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener

    async def _answers(self, task_id: str) -> AsyncIterator[TaskState]:
        """One answer after each sign that something may have changed; ends when there is no task."""
        wake = asyncio.Event()
        with self._waiter(task_id, wake):
            await self._listen()
            while True:
                wake.clear()
                async with self._calls:
                    answer = await self._broker.await_end(task_id, self._channel)
                if not answer.state:
                    return
                yield answer
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), ASK_AGAIN_S)

    @contextlib.contextmanager
    def _waiter(self, task_id: str, wake: asyncio.Event) -> Generator[None]:
        self._waiters[task_id].append(wake)
        try:
            yield
        finally:
            self._waiters[task_id].remove(wake)
            if not self._waiters[task_id]:
                del self._waiters[task_id]

    # --- the channel

    async def _listen(self) -> None:
        """Subscribed, or tried for as long as it takes to ask again anyway."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._keep_listening())
        if not self._heard.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._heard.wait(), ASK_AGAIN_S)

    async def _keep_listening(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                async for message in self._messages():
                    pause = _FIRST_PAUSE_S
                    self._take(message)
            except (RedisError, OSError) as error:
                _log.debug("the channel for ends broke: %s", error)
            self._heard.clear()
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _messages(self) -> AsyncIterator[dict[str, Any]]:
        client = make_redis(self._broker.url, timeout=None, name="taskq-await")
        subscription = client.pubsub()
        try:
            await subscription.ssubscribe(self._channel)
            async for message in subscription.listen():
                yield cast(dict[str, Any], message)
        finally:
            await subscription.aclose()
            await client.aclose()

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "ssubscribe":
            self._heard.set()
            for waiters in self._waiters.values():
                _wake(waiters)
        elif message["type"] == "smessage":
            task_id = cast(bytes, message["data"]).decode().partition(" ")[0]
            _wake(self._waiters.get(task_id, []))


def _wake(waiters: list[asyncio.Event]) -> None:
    for wake in waiters:
        wake.set()
