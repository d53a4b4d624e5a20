"""`demo.*`: one task for each thing that can happen to a task."""

from __future__ import annotations

import asyncio
import os
import resource
import signal as signals
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from taskq_core import current

__all__ = [
    "DemoFailure",
    "Flaky",
    "Slept",
    "Stepped",
    "crash",
    "echo",
    "fail",
    "flaky",
    "noop",
    "progress",
    "sleep",
]

type Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
type Failures = Annotated[int, msgspec.Meta(ge=0, le=100)]
type Steps = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
type Message = Annotated[str, msgspec.Meta(max_length=10_000)]
type Signal = (
    Annotated[int, msgspec.Meta(ge=1, le=31)]
    | Literal["SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTERM"]
)

# A fatal signal ends the process at once; one that is handled leaves this long for the handler.
SURVIVED_S = 5.0


class DemoFailure(Exception):
    """A failure that was asked for."""


class Slept(TypedDict):
    """What `demo.sleep` gives."""

    slept: float


class Flaky(TypedDict):
    """What `demo.flaky` gives."""

    succeeded_on_attempt: int


class Stepped(TypedDict):
    """What `demo.progress` gives."""

    steps: int


async def noop() -> None:
    """Do nothing: what is left is the cost of the queue."""


async def echo(**arguments: Any) -> dict[str, Any]:
    """Give back what was given."""
    return arguments


async def sleep(seconds: Seconds) -> Slept:
    """Wait without keeping anything busy."""
    await asyncio.sleep(seconds)
    return Slept(slept=seconds)


async def flaky(fail_times: Failures = 1) -> Flaky:
    """Fail on the first attempts, then succeed."""
    attempt = current().attempt
    if attempt <= fail_times:
        raise DemoFailure(f"attempt {attempt} fails; the first {fail_times} do")
    return Flaky(succeeded_on_attempt=attempt)


async def fail(message: Message = "this task always fails") -> None:
    """Fail on every attempt."""
    raise DemoFailure(message)


async def crash(signal: Signal = "SIGKILL") -> None:
    """Kill the process that runs it, as a bug in native code or the system's memory killer would."""
    number = signals.Signals(signal) if isinstance(signal, int) else signals.Signals[signal]
    # No core file in the user's folder for a crash that was asked for.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), number)
    await asyncio.sleep(SURVIVED_S)
    raise DemoFailure(f"the process survived {number.name}")


async def progress(steps: Steps = 10, seconds: Seconds = 5.0) -> Stepped:
    """Work in equal steps and tell after each how far it is."""
    task = current()
    for step in range(1, steps + 1):
        await asyncio.sleep(seconds / steps)
        task.progress(step / steps, f"step {step} of {steps}")
    return Stepped(steps=steps)
