"""What all handlers of one API process share."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from services.api.auth import Auth
from services.api.guard import Guard
from services.api.live import Live
from services.api.metrics import ApiMetrics
from services.api.pulse import Pulse
from services.tasks.files import FileStore
from taskq_core.client import Client
from taskq_core.read.reader import Reader
from taskq_core.read.views import OverviewView

__all__ = ["Core", "Socket"]

_CHECK_S = 0.05


class Socket(Protocol):
    """An open WebSocket."""

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Say why, and close."""
        ...


class Core:
    """The ways into the system, the checks, and what is under way."""

    def __init__(self, client: Client, reader: Reader, auth: Auth, guard: Guard, files: FileStore) -> None:
        self.client = client
        self.reader = reader
        self.auth = auth
        self.guard = guard
        self.files = files
        self.metrics = ApiMetrics()
        self.pulse = Pulse(reader)
        self.live = Live(reader)
        self.accepting = True
        self.active: set[object] = set()  # requests
        self.waits: set[asyncio.Future[Any]] = set()  # long polls among them
        self.sockets: set[Socket] = set()

    async def health(self) -> OverviewView:
        """The overview, at most about a second old."""
        return await self.pulse.overview()

    async def drain(self, grace_s: float) -> None:
        """Send waiting clients away, then let the requests under way end, for `grace_s` at most."""
        self.accepting = False
        for wait in list(self.waits):
            _ = wait.cancel()
        for socket in list(self.sockets):
            socket.close(1001, "the API is stopping")
        deadline = asyncio.get_running_loop().time() + grace_s
        while (self.active or self.sockets) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_CHECK_S)

    async def close(self) -> None:
        """Stop what runs behind the requests. Client and reader belong to whoever made them."""
        await self.live.close()
        await self.pulse.close()
