"""Many callers, one call: submissions that come while a call is in flight go out together with the next.

Nothing ever waits for company: with no call in flight an order leaves at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from taskq_core.broker.functions import CALL_TASKS
from taskq_core.errors import TaskqError, Unavailable
from taskq_core.model.order import Order, Receipt

__all__ = ["Gather"]

MOST_TOGETHER = CALL_TASKS

type Send = Callable[[Sequence[Order], str], Awaitable[list[Receipt | TaskqError]]]
type _Waiting = tuple[Order, str, asyncio.Future[Receipt]]


class Gather:
    """Hands single orders to `send`, one call at a time."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._busy = False
        self._waiting: deque[_Waiting] = deque()
        self._drain: asyncio.Task[None] | None = None

    async def submit(self, order: Order, actor: str = "") -> Receipt:
        """The receipt of one order. Raises what `send` raises or answers for it."""
        if self._busy:
            future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
            self._waiting.append((order, actor, future))
            return await future
        self._busy = True
        try:
            (reply,) = await self._send((order,), actor)
        except Unavailable as error:
            self._refuse_waiting(error)
            raise
        finally:
            self._busy = False
            if self._waiting:
                self._busy = True
                self._drain = asyncio.create_task(self._send_waiting())
        if isinstance(reply, TaskqError):
            raise reply
        return reply

    async def close(self) -> None:
        """Wait until everything that was handed in is answered."""
        if self._drain is not None:
            await asyncio.wait([self._drain])

    async def _send_waiting(self) -> None:
        try:
            while self._waiting:
                await self._send_part(self._next_part())
        finally:
            self._busy = False

    def _refuse_waiting(self, error: Unavailable) -> None:
        """The call ended after all patience: those behind it have waited as well, and would wait in vain."""
        while self._waiting:
            _answer(self._waiting.popleft()[2], error)

    def _next_part(self) -> list[_Waiting]:
        """What came first, of one actor; callers who gave up are left out."""
        part: list[_Waiting] = []
        while self._waiting and len(part) < MOST_TOGETHER:
            one = self._waiting[0]
            if part and one[1] != part[0][1]:
                break
            self._waiting.popleft()
            if not one[2].done():
                part.append(one)
        return part

    async def _send_part(self, part: Sequence[_Waiting]) -> None:
        if not part:
            return
        try:
            replies = await self._send([order for order, _, _ in part], part[0][1])
        except asyncio.CancelledError:
            for _, _, future in part:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # each caller gets it
            for _, _, future in part:
                _answer(future, error)
            if isinstance(error, Unavailable):
                self._refuse_waiting(error)
        else:
            for (_, _, future), reply in zip(part, replies, strict=True):
                _answer(future, reply)


def _answer(future: asyncio.Future[Receipt], reply: Receipt | Exception) -> None:
    if future.done():
        return
    if isinstance(reply, Exception):
        future.set_exception(reply)
    else:
        future.set_result(reply)
