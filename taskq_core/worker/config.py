"""What a worker is told, and what it tells each of its runners."""

from __future__ import annotations

import os

import msgspec

__all__ = ["RunnerConfig", "WorkerConfig"]


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One worker: a supervisor and its runners."""

    redis_url: str
    modules: tuple[str, ...] = ()  # modules that declare tasks
    queues: tuple[str, ...] = ()  # empty: those that the tasks name
    processes: int = 1
    concurrency: int = 256  # async tasks at a time, each runner
    threads: int = 16  # sync tasks at a time, each runner
    isolated: int = msgspec.field(default_factory=lambda: os.cpu_count() or 1)
    lease_s: float = 30.0
    grace_s: float = 10.0  # how long a drain waits for what runs
    kill_grace_s: float = 5.0  # from a task's time limit to the kill
    code_version: str = ""
    label: str = ""
    reload: bool = False
    isolated_tasks: int = 200  # an isolated process is replaced after so many
    isolated_rss: int = 1 << 30  # or when it holds so many bytes

    def __post_init__(self) -> None:
        for name in ("processes", "concurrency", "threads", "isolated"):
            if getattr(self, name) < 1:
                message = f"{name} must be at least 1"
                raise ValueError(message)


class RunnerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One runner, as its supervisor starts it; travels as JSON in the environment."""

    worker: WorkerConfig
    owner: str  # its name as a consumer: never used twice
    control_fd: int
    slots_fd: int
    stacks_fd: int  # where the interpreter writes its stacks when it dies of a signal
    solo: bool = False  # takes only tasks that may have crashed a runner, one at a time
