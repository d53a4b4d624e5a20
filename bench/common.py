"""What every benchmark shares: servers of its own, a worker of its own, and the conditions in print."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import AsyncGenerator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from taskq_core.broker.functions import Broker
from taskq_core.embedded import Servers
from taskq_core.model.task import Options, Submission, pack_options

QUEUE = "bench"
RUNS = 5
ROOT = Path(__file__).parent.parent


def conditions(*running: str) -> str:
    """The lines that belong to every figure."""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("redis", "hiredis", "psycopg", "msgspec", "uvloop")
    )
    return (
        f"machine   {os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}\n"
        f"python    {platform.python_version()} · {packages}\n"
        f"running   {', '.join(running)}"
    )


def summary(figures: list[float], unit: str) -> str:
    """Median, lowest and highest."""
    return (
        f"median {statistics.median(figures):,.0f} {unit} "
        f"(lowest {min(figures):,.0f}, highest {max(figures):,.0f}, {len(figures)} runs)"
    )


@contextlib.asynccontextmanager
async def servers() -> AsyncGenerator[Servers]:
    """The embedded servers with their defaults, in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="taskq-bench-") as folder:
        async with Servers(Path(folder)) as running:
            yield running


@contextlib.asynccontextmanager
async def role(verb: str, *args: str, env: dict[str, str]) -> AsyncGenerator[asyncio.subprocess.Process]:
    """One role of taskq as its own process, as a user would start it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.cli",
        verb,
        *args,
        cwd=ROOT,
        env=os.environ | env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def empty(broker: Broker) -> None:
    """Nothing in Redis but the library."""
    await broker.redis.flushall()
    await broker.load()
    await broker.ensure([QUEUE])


async def queue_up(broker: Broker, name: str, count: int, payload: str = "{}") -> None:
    """So many tasks in the line, in batches."""
    options = pack_options(Options())
    for start in range(0, count, 10_000):
        ids = await broker.new_ids(min(10_000, count - start))
        await broker.submit([Submission(i, name, QUEUE, "normal", payload, options, "0" * 32) for i in ids])


async def ended(broker: Broker) -> int:
    """How many tasks of the bench queue have ended."""
    counters: dict[bytes, bytes] = await broker.redis.hgetall(broker.keys.stats(QUEUE))
    return sum(int(n) for field, n in counters.items() if field.startswith(b"ended:"))


async def until(condition: Any, every: float = 0.005) -> None:
    """Poll an async condition."""
    while not await condition():
        await asyncio.sleep(every)
