"""`TaskQ`: the object a user holds. It declares tasks and is the way to everything else.

Creating one connects to nothing: the system is looked for at the first call. Each event loop gets its own
connections, a forked child as well.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from taskq_core.background import BackgroundLoop
from taskq_core.config import Settings, load_settings
from taskq_core.errors import ConfigError
from taskq_core.model.order import Order, Receipt
from taskq_core.tasks import Registry

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from taskq_core.client import Client
    from taskq_core.embedded import Servers
    from taskq_core.read.reader import Reader
    from taskq_core.reading import LazyReader

__all__ = ["TaskQ"]


_inherited: list[object] = []


class _Connections:
    """What one event loop uses."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.reader: LazyReader | None = None

    async def close(self) -> None:
        """Close what was opened."""
        if self.client is not None:
            await self.client.close()
        if self.reader is not None:
            await self.reader.close()


class TaskQ(Registry):
    """Declares tasks, submits them, reads what became of them."""

    def __init__(
        self,
        redis_url: str | None = None,
        database_url: str | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        home: Path | str | None = None,
    ) -> None:
        """What is not given comes from `TASKQ_*` variables, `taskq.toml`, or what runs in the data folder."""
        super().__init__(self)
        given = {
            "redis_url": redis_url,
            "database_url": database_url,
            "url": url,
            "token": token,
            "home": None if home is None else str(home),
        }
        self._given = {name: value for name, value in given.items() if value is not None}
        self._settings: Settings | None = None
        self._sets: dict[asyncio.AbstractEventLoop, _Connections] = {}
        self._pid = os.getpid()
        self._background = BackgroundLoop()
        self._embedded = False
        self._whole: AbstractAsyncContextManager[Servers] | None = None

    @classmethod
    def embedded(cls, folder: Path | str | None = None) -> Self:
        """An app with a system of its own: real servers, and a worker in this process.

        Use it as ``async with TaskQ.embedded() as app:``. A folder that is named is kept; without one all
        lies in a temporary folder.
        """
        app = cls(home=folder)
        app._embedded = True
        return app

    # --- reaching the system

    @property
    def settings(self) -> Settings:
        """Where the system is. Raises ConfigError when nothing says so."""
        if self._settings is None:
            if self._embedded:
                raise ConfigError("an embedded app runs inside `async with TaskQ.embedded() as app:` only")
            self._settings = load_settings(self._given, os.environ, Path.cwd())
        return self._settings

    def client(self) -> Client:
        """The command side, with connections of the running event loop."""
        mine = self._mine()
        if mine.client is None:
            from taskq_core.client import Client  # noqa: PLC0415  # a declaration needs no Redis library

            mine.client = Client.of(self.settings, self.tasks, self)
        return mine.client

    def reader(self) -> Reader:
        """The reading side, with connections of the running event loop; it connects when first asked."""
        mine = self._mine()
        if mine.reader is None:
            from taskq_core.reading import LazyReader  # noqa: PLC0415  # see `client`

            mine.reader = LazyReader(self._connect_reader)
        return mine.reader

    async def _connect_reader(self) -> Reader:
        from taskq_core.read.direct import DirectReader  # noqa: PLC0415  # see `client`

        settings = self.settings
        if not settings.redis_url or not settings.database_url:
            raise ConfigError("reading needs TASKQ_REDIS_URL and TASKQ_DATABASE_URL; set both")
        return await DirectReader.connect(settings.redis_url, settings.database_url)

    def _mine(self) -> _Connections:
        self._leave_parent()
        loop = asyncio.get_running_loop()
        mine = self._sets.get(loop)
        if mine is None:
            for ended in [other for other in self._sets if other.is_closed()]:
                del self._sets[ended]
            mine = self._sets[loop] = _Connections()
        return mine

    def _leave_parent(self) -> None:
        """In a forked child: say nothing on the parent's sockets, and never let go of them.

        Parent and child share one epoll: a connection that is collected here would be struck from it there.
        """
        if self._pid != os.getpid():
            _inherited.append(self._sets)
            self._pid, self._sets = os.getpid(), {}

    async def close(self) -> None:
        """Close the connections of every event loop of this process. The app may be used again."""
        self._leave_parent()
        here = asyncio.get_running_loop()
        sets, self._sets = self._sets, {}
        for loop, connections in sets.items():
            if loop is here:
                await connections.close()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(connections.close(), loop))
        await asyncio.to_thread(self._background.stop)

    async def __aenter__(self) -> Self:
        if self._embedded:
            await self._start_whole()
        try:
            await self.client().connect()
        except BaseException:
            await self._stop_whole()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.close()
        finally:
            await self._stop_whole()

    async def _start_whole(self) -> None:
        from taskq_core.testing.whole import whole_system  # noqa: PLC0415  # servers, relay, worker: only here

        whole = whole_system(self._given.get("home"), self.tasks)
        servers = await whole.__aenter__()
        self._whole = whole
        found = {"redis_url": servers.redis_url, "database_url": servers.database_url}
        self._settings = load_settings(found | {"home": str(servers.folder.path)}, {}, Path.cwd())

    async def _stop_whole(self) -> None:
        whole, self._whole = self._whole, None
        if whole is not None:
            self._settings = None
            await whole.__aexit__(None, None, None)

    # --- what declared tasks ask for

    async def submit_order(self, order: Order) -> Receipt:
        """Submit one task."""
        return await self.client().submit_order(order)

    async def submit_orders(self, orders: Sequence[Order]) -> list[Receipt]:
        """Submit many tasks, in order."""
        return await self.client().submit_orders(orders)

    async def raw_result(self, task_id: str, timeout: float | None = None) -> bytes:
        """The JSON of a task's result."""
        return await self.client().raw_result(task_id, timeout)

    async def cancel(self, task_id: str, *, actor: str = "", reason: str = "") -> str:
        """Cancel a task; answers its state after it."""
        return await self.client().cancel(task_id, actor=actor, reason=reason)

    def run_sync[T](self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the background loop and wait for it."""
        return self._background.run(work)

    def __repr__(self) -> str:
        return f"<TaskQ with {len(self.tasks)} tasks>"
