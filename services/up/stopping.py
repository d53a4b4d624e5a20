"""When to stop: signals and keys, once to stop in order, twice to stop at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

__all__ = ["Stopper"]

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopper:
    """Handles SIGINT, SIGTERM and SIGHUP for the length of a `with` inside a running loop."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._handled = [*_STOPPING]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means it
            self._handled.append(signal.SIGHUP)

    @property
    def asked(self) -> bool:
        """Whether it is time to stop."""
        return self._asked.is_set()

    @property
    def exit_code(self) -> int:
        """0: being told to stop is the usual end."""
        return 0

    def stop(self) -> None:
        """Stop, or stop at once when that was asked before."""
        if self._asked.is_set():
            self._hurry.set()
        self._asked.set()

    async def wait(self) -> None:
        """Until it is time to stop."""
        await self._asked.wait()

    async def wait_for_hurry(self) -> None:
        """Until somebody asked a second time."""
        await self._hurry.wait()

    async def unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work, or give it up when it is time to stop; raises what it raises."""
        working = asyncio.create_task(work)
        waiting = asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            if not working.done():
                working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in self._handled:
            loop.add_signal_handler(number, self.stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in self._handled:
            loop.remove_signal_handler(number)
