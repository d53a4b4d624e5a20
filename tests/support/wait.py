"""Waiting in tests: for a described condition, never for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import cast

_EVERY = 0.02


async def eventually[T](
    condition: Callable[[], T] | Callable[[], Awaitable[T]],
    what: str,
    *,
    timeout: float = 10.0,
    every: float = _EVERY,
) -> T:
    """Ask `condition` (plain or async) until its answer is true, and return the answer.

    After `timeout` seconds the test fails, saying `what` was awaited and what the last answer was.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        value = cast(T, await answer if inspect.isawaitable(answer) else answer)
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}; last answer: {value!r}")
        await asyncio.sleep(every)


def eventually_sync[T](
    condition: Callable[[], T], what: str, *, timeout: float = 10.0, every: float = _EVERY
) -> T:
    """`eventually` for tests without a loop."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}; last answer: {value!r}")
        time.sleep(every)
