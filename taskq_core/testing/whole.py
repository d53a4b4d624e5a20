"""A whole system for the length of a `with`: real servers, migrations, the relay, and a local worker."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from taskq_core.audit.migrate import migrate
from taskq_core.audit.relay import Relay
from taskq_core.broker.functions import Broker
from taskq_core.broker.stream import StreamSource
from taskq_core.embedded import DataFolder, Servers
from taskq_core.tasks import Task
from taskq_core.testing.worker import LocalWorker

__all__ = ["whole_system"]


@contextlib.asynccontextmanager
async def whole_system(
    folder: Path | str | None, tasks: Mapping[str, Task[..., Any]]
) -> AsyncGenerator[Servers]:
    """The running servers. Without a folder everything lies in a temporary one, which is removed.

    Raises ConfigError (no server found, the folder is in use, …).
    """
    async with contextlib.AsyncExitStack() as stack:
        if folder is None:
            folder = tempfile.mkdtemp(prefix="taskq-")
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        servers = await stack.enter_async_context(Servers(DataFolder(folder)))
        await migrate(servers.database_url)
        await stack.enter_async_context(_relay(servers))
        await stack.enter_async_context(LocalWorker(tasks, servers.redis_url))
        yield servers


@contextlib.asynccontextmanager
async def _relay(servers: Servers) -> AsyncGenerator[None]:
    broker = await Broker.connect(servers.redis_url, name="taskq-relay")
    source = StreamSource(broker)
    stop = asyncio.Event()
    running = asyncio.create_task(Relay(source, servers.database_url).run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait([running])
        await source.close()
        await broker.close()
