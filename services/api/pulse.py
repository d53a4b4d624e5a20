"""The overview, read at most once a second however many ask for it."""

from __future__ import annotations

import asyncio

from taskq_core.clock import monotonic_ns
from taskq_core.read.reader import Reader
from taskq_core.read.views import OverviewView

__all__ = ["Pulse"]

FRESH_NS = 1_000_000_000


class Pulse:
    """One reading, shared. /health answers strangers: what it costs must not depend on how many they are."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._read_at = 0
        self._reading: asyncio.Task[OverviewView] | None = None

    async def overview(self) -> OverviewView:
        """The overview, at most a second old (and as old as its reading took)."""
        if self._reading is None or (self._reading.done() and monotonic_ns() - self._read_at > FRESH_NS):
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(self._reading)

    async def close(self) -> None:
        """Leave a reading that is under way."""
        if self._reading is not None:
            _ = self._reading.cancel()
            _ = await asyncio.wait([self._reading])

    async def _read(self) -> OverviewView:
        view = await self._reader.overview()
        self._read_at = monotonic_ns()
        return view
