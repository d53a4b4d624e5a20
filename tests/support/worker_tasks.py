"""Tasks that behave well and badly, for workers under test. Imported by name: `worker_tasks`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

from taskq_core import Permanent, Retry, TaskQ, current

app = TaskQ()
QUICK = Retry(max_attempts=3, base=0.05)


@app.task("w.add", queue="plain")
async def add(a: int, b: int) -> int:
    return a + b


@app.task("w.sleep", queue="plain", retry=QUICK)
async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@app.task("w.flaky", queue="plain", retry=QUICK)
async def flaky(times: int) -> int:
    if current().attempt <= times:
        message = f"attempt {current().attempt}"
        raise ValueError(message)
    return current().attempt


@app.task("w.permanent", queue="plain")
async def permanent() -> None:
    message = "no retry helps"
    raise Permanent(message)


@app.task("w.kill", queue="plain", retry=QUICK)
async def kill(number: int = int(signal.SIGKILL)) -> None:
    os.kill(os.getpid(), number)


@app.task("w.leave", queue="plain", retry=QUICK)
async def leave() -> None:
    os._exit(7)


@app.task("w.exit", queue="plain", retry=QUICK)
async def exit_() -> None:
    sys.exit(3)


@app.task("w.block", queue="plain", timeout=0.5, retry=QUICK)
async def block() -> None:
    """Holds the event loop: no cancellation reaches it."""
    while True:
        time.sleep(0.05)


@app.task("w.slow", queue="plain", timeout=0.3, retry=QUICK)
async def slow() -> None:
    await asyncio.sleep(60)


@app.task("w.large", queue="plain", retry=QUICK)
async def large() -> str:
    return "x" * 300_000


@app.task("w.odd", queue="plain", retry=QUICK)
async def odd() -> object:
    return object()


@app.task("w.thread", queue="threads")
def thread(seconds: float) -> str:
    time.sleep(seconds)
    return threading.current_thread().name


@app.task("w.obedient", queue="threads")
def obedient() -> str:
    """Returns soon after it is asked to."""
    here = current()
    while not here.cancelled:
        time.sleep(0.01)
    return "obeyed"


@app.task("w.isolated", queue="isolated", isolate=True)
def isolated(n: int) -> int:
    current().progress(0.5, "half")
    return n * 2


@app.task("w.segfault", queue="isolated", isolate=True, retry=QUICK)
def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@app.task("w.endless", queue="isolated", isolate=True, timeout=0.5, retry=QUICK)
def endless() -> None:
    while True:
        pass


@app.task("w.mark", queue="plain", retry=QUICK)
async def mark(folder: str, name: str, seconds: float = 0.0) -> str:
    """Leaves a mark for every time that it ran to its end."""
    await asyncio.sleep(seconds)
    with (Path(folder) / name).open("a") as file:
        file.write(current().token + "\n")
    return current().token


@app.task("w.progress", queue="plain")
async def progress(gate: str) -> str:
    """Reports, then waits until the gate is there."""
    current().progress(0.25, "a quarter")
    while not Path(gate).exists():
        await asyncio.sleep(0.02)
    return "through"


class Unusual(BaseException):
    """As some test tools raise: no Exception."""


@app.task("w.unusual", queue="plain", retry=QUICK)
async def unusual() -> None:
    raise Unusual


@app.task("w.oddprogress", queue="plain", retry=QUICK)
async def odd_progress() -> str:
    current().progress(float("nan"), "half a pair: \ud800")
    await asyncio.sleep(0.4)
    return "unharmed"


@app.task("w.orphan", queue="isolated", isolate=True, retry=QUICK)
def orphan() -> None:
    """Dies while a child of its own holds everything open that it inherited."""
    if os.fork() == 0:
        os.closerange(0, 3)  # but not the test's own pipes
        time.sleep(10)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGSEGV)


@app.task("w.patricide", queue="isolated", isolate=True, retry=QUICK)
def patricide() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(20)


@app.task("w.terminated", queue="plain")
async def terminated() -> int:
    """A program that a task starts hears SIGTERM."""
    process = await asyncio.create_subprocess_exec("sleep", "60")
    process.terminate()
    return await process.wait()


@app.task("w.left", queue="left")
async def left() -> None:
    await asyncio.sleep(0.005)


@app.task("w.right", queue="right")
async def right() -> None:
    await asyncio.sleep(0.005)
