"""The demo load of `--demo` and the key `d`: a process of its own that goes on submitting sample tasks."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from services.up.process import RoleProcess
from services.up.system import System

__all__ = ["Demo"]

_STOP_S = 3.0


class Demo:
    """Off at first."""

    def __init__(self, system: System, say: Callable[[str], None]) -> None:
        self._system = system
        self._say = say
        self._process: RoleProcess | None = None
        self._stopping: asyncio.Task[None] | None = None

    def toggle(self) -> None:
        """Turn it on, or off."""
        if self._process is None:
            self._process = self._system.demo_process()
            self._process.start()
            self._say("demo load on")
        else:
            self._stopping = asyncio.create_task(self.stop())
            self._say("demo load off")

    async def stop(self) -> None:
        """Turn it off; harmless when it is off."""
        process, self._process = self._process, None
        if process is not None:
            process.send(signal.SIGTERM)
            await process.wait(_STOP_S)
            process.kill()
