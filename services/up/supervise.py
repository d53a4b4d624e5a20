"""Keeping the roles running: restart what dies, slower each time, and say so."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from services.up.process import RoleProcess

__all__ = ["Keeper"]

FIRST_PAUSE_S = 0.2  # before the first restart; doubled by each that follows
LONGEST_PAUSE_S = 5.0
MOST_DEATHS = 5  # within the minute; more are a fault that a restart does not mend
MINUTE_S = 60.0
_LOOK_S = 0.05


class Keeper:
    """Watches one role until cancelled."""

    def __init__(self, process: RoleProcess, say: Callable[[str], None]) -> None:
        self._process = process
        self._say = say
        self._deaths: deque[float] = deque()

    async def run(self) -> None:
        """Restart the role whenever it has ended, and pass on what it says."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for line in self._process.output.news():
                self._say(line)
            if not self._process.alive:
                await asyncio.sleep(self._pause())
                self._start()

    def _start(self) -> None:
        try:
            self._process.start()
        except OSError as error:  # out of processes, memory or disk: it may pass
            self._say(f"{self._process.role.name} cannot be started: {error.strerror or error}")

    def _pause(self) -> float:
        """Note a death and say it; answers the seconds to wait before the restart."""
        name = self._process.role.name
        now = time.monotonic()
        self._deaths.append(now)
        while now - self._deaths[0] > MINUTE_S:
            self._deaths.popleft()
        count = len(self._deaths)
        if count > MOST_DEATHS:
            self._say(f"{name} cannot stay up: {self._process.output.last_words()}")
            return LONGEST_PAUSE_S
        self._say(f"{name} ended ({self._process.how_it_ended}); restarting")
        return min(FIRST_PAUSE_S * 2 ** (count - 1), LONGEST_PAUSE_S)
