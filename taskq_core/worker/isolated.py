"""The isolated processes of one runner: warm, reused, replaced when they die or grow."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable

import msgspec

from taskq_core.broker.protocol import Claim, Op
from taskq_core.worker.config import WorkerConfig
from taskq_core.worker.failure import describe_text
from taskq_core.worker.frames import Answer, Job, Report, read_frame, write_job
from taskq_core.worker.process import how_it_died

__all__ = ["IsolatedPool", "Outcome"]

LAST_WORDS_S = 1.0  # between the end of a process and what it may have said before


class Outcome(msgspec.Struct, frozen=True):
    """How an isolated attempt ended."""

    op: Op
    body: str
    outcome: str
    cpu_ms: float
    peak_rss: int


class _Child:
    """One process and its end of the socket pair."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self.reader = reader
        self.writer = writer
        self.jobs = 0
        self.rss = 0

    async def kill(self) -> int:
        """End it and answer its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        return await self.wait()

    async def end(self, patience_s: float) -> int:
        """Its exit code; killed when it does not end by itself."""
        try:
            async with asyncio.timeout(patience_s):
                return await self.wait()
        except TimeoutError:
            return await self.kill()

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        code = await self.process.wait()
        self.writer.close()
        return code


class IsolatedPool:
    """Hands each job to a process of its own. At most `size` run at a time: the slots see to that."""

    def __init__(self, config: WorkerConfig, size: int) -> None:
        self._config = config
        self._size = size
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        self._warming: set[asyncio.Task[None]] = set()
        self._closed = False

    def warm(self) -> None:
        """Start processes in the background until all are there."""
        for _ in range(self._size - len(self._all) - len(self._warming)):
            task = asyncio.get_running_loop().create_task(self._warm_one())
            self._warming.add(task)
            task.add_done_callback(self._warming.discard)

    async def _warm_one(self) -> None:
        try:
            child = await self._start()
        except (OSError, asyncio.IncompleteReadError):
            return  # the next job tries again and reports it
        self._idle.append(child)

    async def close(self) -> None:
        """Kill them all."""
        self._closed = True
        for task in list(self._warming):
            task.cancel()
        await asyncio.gather(*self._warming, return_exceptions=True)
        await asyncio.gather(*(child.kill() for child in list(self._all)))

    async def run(
        self,
        claim: Claim,
        payload: bytes,
        report: Callable[[float, str], None],
        tell_pid: Callable[[int], None],
    ) -> Outcome:
        """Run one attempt. Cancelling this kills the process that runs it."""
        try:
            child = self._idle.pop() if self._idle else await self._start()
        except (OSError, asyncio.IncompleteReadError) as error:
            return _crashed(f"the isolated process did not start: {error}")
        tell_pid(child.process.pid)
        try:
            answer = await self._answer(child, claim, payload, report)
        except (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError):
            code = await child.end(LAST_WORDS_S)
            self._all.discard(child)
            self.warm()
            return _crashed(f"its process ended with {how_it_died(code)}")
        except asyncio.CancelledError:
            await child.kill()
            self._all.discard(child)
            if not self._closed:
                self.warm()
            raise
        await self._return(child, answer)
        return Outcome(Op(answer.op), answer.body, answer.outcome, answer.cpu_ms, answer.peak_rss)

    async def _answer(
        self, child: _Child, claim: Claim, payload: bytes, report: Callable[[float, str], None]
    ) -> Answer:
        """As `_converse`, and the death of the process ends it: its own children may hold the line open."""
        talking = asyncio.ensure_future(self._converse(child, claim, payload, report))
        dying = asyncio.ensure_future(child.process.wait())
        try:
            await asyncio.wait({talking, dying}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({talking}, timeout=LAST_WORDS_S)
            if not talking.done():
                raise asyncio.IncompleteReadError(b"", None)
            return talking.result()
        finally:
            talking.cancel()
            dying.cancel()

    async def _converse(
        self, child: _Child, claim: Claim, payload: bytes, report: Callable[[float, str], None]
    ) -> Answer:
        job = Job(claim.name, payload, claim.task_id, claim.attempt, claim.epoch, claim.metadata)
        write_job(child.writer, job)
        while True:
            message = await read_frame(child.reader)
            if isinstance(message, Answer):
                return message
            report(message.fraction, message.message)

    async def _return(self, child: _Child, answer: Answer) -> None:
        child.jobs += 1
        if child.jobs >= self._config.isolated_tasks or answer.peak_rss > self._config.isolated_rss:
            self._all.discard(child)
            await child.kill()
            self.warm()
        else:
            self._idle.append(child)

    async def _start(self) -> _Child:
        ours, theirs = socket.socketpair()
        try:
            environment = os.environ | {"TASKQ_ISOLATE": msgspec.json.encode(self._config.modules).decode()}
            environment.pop("TASKQ_RUNNER", None)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "taskq_core.worker.isolate",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        child = _Child(process, reader, writer)
        self._all.add(child)
        try:
            hello = await read_frame(reader)
        except BaseException:
            self._all.discard(child)
            await child.kill()
            raise
        assert isinstance(hello, Report)  # noqa: S101  # the child's first word is fixed in isolate.main
        return child


def _crashed(message: str) -> Outcome:
    return Outcome(Op.FAIL, describe_text("Crashed", message), "crashed", -1.0, -1)
