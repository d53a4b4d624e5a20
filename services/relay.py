"""`taskq relay`: the process that carries events into the history."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

import setproctitle

from services.relay_metrics import serve_metrics
from taskq_core.audit.migrate import check
from taskq_core.audit.relay import Relay, RelayStats
from taskq_core.broker.functions import Broker
from taskq_core.broker.stream import StreamSource
from taskq_core.config import Settings
from taskq_core.errors import ConfigError, Unavailable

__all__ = ["METRICS_PORT", "main", "run_relay"]

log = logging.getLogger("taskq.relay")

METRICS_PORT = 9102
PATIENCE_S = 5.0  # the relay has its own way of waiting
RETRY_S = 1.0


async def main(
    settings: Settings, *, metrics_port: int | None = None, metrics_host: str = "127.0.0.1"
) -> None:
    """Run until SIGTERM or SIGINT, then end within about a second.

    Raises ConfigError when an address is missing, a server is unfit, or the schema is another release's.
    """
    if not settings.redis_url or not settings.database_url:
        raise ConfigError("the relay needs TASKQ_REDIS_URL and TASKQ_DATABASE_URL")
    setproctitle.setproctitle("taskq relay")
    stop = asyncio.Event()
    with _signals(stop.set):
        await run_relay(
            settings.redis_url,
            settings.database_url,
            stop,
            metrics_port=metrics_port,
            metrics_host=metrics_host,
        )


async def run_relay(
    redis_url: str,
    database_url: str,
    stop: asyncio.Event,
    *,
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
) -> None:
    """Compose and run the relay until `stop` is set. Servers that are away are waited for."""
    stats = RelayStats()
    with serve_metrics(lambda: stats, metrics_host, metrics_port):
        async with _source(redis_url, database_url, stop, stats) as source:
            if source is None:
                return
            relay = Relay(source, database_url)
            stats = relay.stats
            await relay.run(stop)


@contextlib.asynccontextmanager
async def _source(
    redis_url: str, database_url: str, stop: asyncio.Event, stats: RelayStats
) -> AsyncGenerator[StreamSource | None]:
    """The event source, when both servers are there and fit; None when it is time to stop instead."""
    broker = await _until_there(lambda: _connect(redis_url, database_url), stop, stats)
    if broker is None:
        yield None
        return
    source = StreamSource(broker)
    try:
        yield source
    finally:
        await source.close()
        await broker.close()


async def _connect(redis_url: str, database_url: str) -> Broker:
    await check(database_url)
    return await Broker.connect(redis_url, name="taskq-relay", patience=PATIENCE_S)


async def _until_there(
    connect: Callable[[], Coroutine[None, None, Broker]], stop: asyncio.Event, stats: RelayStats
) -> Broker | None:
    stopping = asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            trying = asyncio.create_task(connect())
            await asyncio.wait({trying, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not trying.done():
                trying.cancel()
                break
            try:
                return trying.result()
            except Unavailable as error:
                if str(error) != stats.trouble:
                    log.warning("the relay waits: %s", error)
                stats.state, stats.trouble = "waiting", str(error)
            await asyncio.wait({stopping}, timeout=random.uniform(RETRY_S / 2, RETRY_S))
        return None
    finally:
        stopping.cancel()


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Generator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
