"""Tasks for the benchmarks."""

from __future__ import annotations

import time

from taskq_core import TaskQ

app = TaskQ()


@app.task("bench.noop", queue="bench")
async def noop() -> None:
    """Do nothing."""


@app.task("bench.stamp", queue="bench")
async def stamp() -> int:
    """Say when it started, on the machine's monotonic clock in ns."""
    return time.monotonic_ns()
