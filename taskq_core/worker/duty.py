"""The shape of every background duty: a loop with a pause, which outlives a server that is away."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError

from taskq_core.errors import TaskqError

__all__ = ["Duty"]

logger = logging.getLogger("taskq.worker")


class Duty:
    """Runs `step` again and again; the step answers how many seconds to rest."""

    def __init__(self, name: str, step: Callable[[], Awaitable[float]]) -> None:
        self.name = name
        self.failures = 0  # in a row
        self._step = step

    async def run(self) -> None:
        """Until cancelled. Errors of the server are logged and met with a growing pause."""
        while True:
            try:
                rest = await self._step()
                self.failures = 0
            except (TaskqError, RedisError, OSError) as error:
                self.failures += 1
                rest = random.uniform(0.1, min(0.2 * 2**self.failures, 5.0))
                logger.warning("%s: %s; again in %.1f s", self.name, error, rest)
            await asyncio.sleep(rest)
