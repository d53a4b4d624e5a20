"""A runner as its supervisor holds it: the process, the line to it, its slot table."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from typing import BinaryIO

import msgspec

from taskq_core.clock import monotonic_ns
from taskq_core.worker.config import RunnerConfig, WorkerConfig
from taskq_core.worker.control import Line, Message, Ready
from taskq_core.worker.slots import SlotTable

__all__ = ["RunnerChild", "StartError"]

START_TIMEOUT_S = 60.0
MAX_STACKS = 32 * 1024


class StartError(Exception):
    """The runner did not come up; the message says why."""


class RunnerChild:
    """One runner process. Make it with `start`, which answers when it takes tasks."""

    def __init__(
        self,
        owner: str,
        process: asyncio.subprocess.Process,
        line: Line,
        slots: SlotTable,
        stacks: BinaryIO,
        *,
        solo: bool,
    ) -> None:
        self.owner = owner
        self.process = process
        self.line = line
        self.slots = slots
        self._stacks = stacks
        self.solo = solo
        self.ready = Ready([], [], {})
        self.draining = False
        self.killed_for: set[str] = set()  # tasks that overstayed: the kill is theirs
        self.suspects: list[str] = []  # pending entries that were in no slot at the last look
        self.started_at = monotonic_ns()
        self.idle_since = monotonic_ns()

    @classmethod
    async def start(cls, config: WorkerConfig, owner: str, *, solo: bool = False) -> RunnerChild:
        """Start a runner and wait until it is ready. Raises StartError."""
        size = 1 if solo else config.concurrency + config.threads + config.isolated
        slots = SlotTable.create(size)
        ours, theirs = socket.socketpair()
        stacks = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the child
        told = RunnerConfig(
            worker=config,
            owner=owner,
            control_fd=theirs.fileno(),
            slots_fd=slots.fd,
            stacks_fd=stacks.fileno(),
            solo=solo,
        )
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "taskq_core.worker.runner",
                pass_fds=[theirs.fileno(), slots.fd, stacks.fileno()],
                env=os.environ | {"TASKQ_RUNNER": msgspec.json.encode(told).decode()},
                stdin=asyncio.subprocess.DEVNULL,
            )
        finally:
            theirs.close()
        child = cls(owner, process, await Line.of(ours), slots, stacks, solo=solo)
        try:
            await child._hear_ready()
        except BaseException:
            await child.kill()
            child.close()
            raise
        return child

    async def _hear_ready(self) -> None:
        try:
            message = await asyncio.wait_for(self.line.receive(), START_TIMEOUT_S)
        except TimeoutError as error:
            text = f"it said nothing for {START_TIMEOUT_S:.0f} s"
            raise StartError(text) from error
        if message is None:
            text = "it ended before it was ready"
            raise StartError(text)
        if message.op != "ready":
            raise StartError(message.why)
        self.ready = msgspec.json.decode(message.body, type=Ready)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs, as far as was heard."""
        return self.process.returncode is None

    def drain(self, grace_s: float) -> None:
        """Ask it to take nothing more and to end."""
        self.draining = True
        self.line.send(Message("drain", grace_s=grace_s))

    async def kill(self) -> int:
        """End it now; answers the exit code."""
        if self.alive:
            self.process.send_signal(signal.SIGKILL)
        return await self.process.wait()

    def last_stacks(self) -> str:
        """What the interpreter wrote when a signal ended it; empty after SIGKILL."""
        self._stacks.seek(0)
        return self._stacks.read(MAX_STACKS).decode("utf-8", "replace")

    def close(self) -> None:
        """Give line and memory back."""
        self.line.close()
        self.slots.close()
        self._stacks.close()
