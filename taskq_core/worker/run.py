"""One attempt, as named steps: accept, bind, open, run, classify, close.

Whatever the code does, an attempt ends in exactly one Finish.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from taskq_core.broker.protocol import Claim, Finish, Op
from taskq_core.clock import monotonic_ns
from taskq_core.context import Current, enter
from taskq_core.errors import InvalidJson, InvalidPayload, Permanent
from taskq_core.model.codec import MAX_RESULT, decode_json, encode_json
from taskq_core.model.task import Options, unpack_options
from taskq_core.tasks import Task
from taskq_core.worker.desk import Active, Desk
from taskq_core.worker.failure import describe, describe_large_result, describe_text
from taskq_core.worker.isolated import IsolatedPool
from taskq_core.worker.progress import ProgressBook

__all__ = ["Attempts"]

_NS = 1_000_000_000
_NULL = "null"


@lru_cache(maxsize=1024)
def _options(packed: str) -> Options:
    return unpack_options(packed)


class Attempts:
    """Starts what was claimed and reports how it ended, for one runner."""

    def __init__(
        self, desk: Desk, pool: IsolatedPool, threads: int, progress: ProgressBook, kill_grace_s: float
    ) -> None:
        self._desk = desk
        self._pool = pool
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="taskq")
        self._progress = progress
        self._kill_grace = int(kill_grace_s * _NS)
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Let the threads go; those that still run die with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- steps

    def start(self, claim: Claim, payload: bytes) -> None:
        """Accept a claim. It either runs now or is already in the list of the ended."""
        known = self._desk.active.get(claim.task_id)
        if known is not None and known.claim.epoch >= claim.epoch:
            return  # the answer to a repeated question
        task = self._desk.tasks.get(claim.name)
        if task is None:
            self._desk.refuse(_finish(claim, Op.PARK, reason="no worker here knows this task"))
            return
        if not self._desk.has_slot(claim.queue, task):
            # It was sent to a queue whose declared tasks need another kind of slot.
            self._desk.refuse(_finish(claim, Op.RELEASE, reason="no free slot of its kind"))
            return
        active = self._open(claim, task)
        try:
            arguments = payload if task.kind == "isolated" else task.bind(payload)
        except (InvalidPayload, InvalidJson) as error:
            self._close(active, Op.PERMANENT, body=describe_text(type(error).__name__, str(error)))
            return
        except Exception as error:  # noqa: BLE001  # a type of the signature may run code of its own
            self._close(active, Op.PERMANENT, body=describe(error))
            return
        self._run(active, arguments)

    def _open(self, claim: Claim, task: Task[..., Any]) -> Active:
        now = monotonic_ns()
        limit = _options(claim.options).timeout if claim.options else None
        soft = 0 if limit is None else now + int(limit * _NS)
        return self._desk.open(claim, task, now, soft, soft + self._kill_grace if soft else 0)

    def _run(self, active: Active, arguments: Any) -> None:
        claim, task = active.claim, active.task
        if task.kind == "isolated":
            self._start_isolated(active, arguments)
            return
        metadata = decode_json(claim.metadata.encode()) if claim.metadata else None
        here = Current(
            claim.task_id,
            claim.attempt,
            claim.epoch,
            metadata,
            self._progress.reporter(claim.task_id, claim.epoch),
        )
        context = contextvars.copy_context()
        context.run(enter, here)
        if task.kind == "async":
            self._start_async(active, here, context, arguments)
        else:
            self._start_thread(active, here, context, arguments)

    # --- async

    def _start_async(
        self, active: Active, here: Current, context: contextvars.Context, arguments: dict[str, Any]
    ) -> None:
        running = asyncio.Task(
            self._attempt_async(active, arguments), loop=self._loop, eager_start=True, context=context
        )
        if running.done():
            return
        handle = self._arm(active)

        def stop() -> None:
            here.cancelled = True
            running.cancel()

        active.cancel = stop
        if active.stop:  # asked while it started
            stop()
        if handle is not None:
            running.add_done_callback(lambda _: handle.cancel())

    async def _attempt_async(self, active: Active, arguments: dict[str, Any]) -> None:
        try:
            value = await active.task.fn(**arguments)
        except asyncio.CancelledError as error:
            self._stopped(active, error)
        except Permanent as error:
            self._close(active, Op.PERMANENT, body=describe(error))
        except BaseException as error:  # noqa: BLE001  # user code may raise anything: each attempt must end
            self._failed(active, error)
        else:
            self._succeeded(active, value)

    def _arm(self, active: Active) -> asyncio.TimerHandle | None:
        limit = _options(active.claim.options).timeout
        if limit is None:
            return None
        return self._loop.call_later(limit, self.stop, active, "timeout")

    # --- threads

    def _start_thread(
        self, active: Active, here: Current, context: contextvars.Context, arguments: dict[str, Any]
    ) -> None:
        def work() -> Any:
            threading.current_thread().name = f"taskq {active.task.name}"
            return context.run(active.task.fn, **arguments)

        def stop() -> None:
            here.cancelled = True  # a thread cannot be stopped: it is asked, then its process is killed

        active.cancel = stop
        handle = self._arm(active)
        future = self._threads.submit(work)

        def ended(done: Future[Any]) -> None:
            try:
                self._loop.call_soon_threadsafe(self._thread_ended, active, done, handle)
            except RuntimeError:
                return  # the loop is closed: the process ends

        future.add_done_callback(ended)

    def _thread_ended(self, active: Active, done: Future[Any], handle: asyncio.TimerHandle | None) -> None:
        if handle is not None:
            handle.cancel()
        error = done.exception()
        if error is None:
            self._succeeded(active, done.result())
        elif isinstance(error, Permanent):
            self._close(active, Op.PERMANENT, body=describe(error))
        elif active.stop:
            self._stopped(active, error)
        else:
            self._failed(active, error)

    # --- isolated

    def _start_isolated(self, active: Active, payload: bytes) -> None:
        running = self._loop.create_task(self._attempt_isolated(active, payload))
        handle = self._arm(active)
        active.cancel = running.cancel
        if handle is not None:
            running.add_done_callback(lambda _: handle.cancel())

    async def _attempt_isolated(self, active: Active, payload: bytes) -> None:
        claim = active.claim
        report = self._progress.reporter(claim.task_id, claim.epoch)
        try:
            answer = await self._pool.run(
                claim, payload, report, lambda pid: self._desk.table.set_pid(active.slot, pid)
            )
        except asyncio.CancelledError as error:
            self._stopped(active, error)
            return
        cpu, rss = answer.cpu_ms, answer.peak_rss
        self._close(active, answer.op, outcome=answer.outcome, body=answer.body, cpu_ms=cpu, peak_rss=rss)

    # --- the end

    def stop(self, active: Active, why: str) -> None:
        """Tell an attempt to stop: cancel, timeout, drain, doubt, lost."""
        if active.ended or active.stop:
            return
        active.stop = why
        if active.cancel is not None:
            active.cancel()

    def _succeeded(self, active: Active, value: Any) -> None:
        if value is None:
            self._close(active, Op.OK, body=_NULL)
            return
        try:
            body = encode_json(value).decode()
        except Exception as error:  # noqa: BLE001  # encoding may run code of the value
            self._close(active, Op.PERMANENT, body=describe_text("InvalidResult", str(error)))
            return
        if len(body) > MAX_RESULT:
            self._close(active, Op.PERMANENT, body=describe_large_result(len(body)))
            return
        self._close(active, Op.OK, body=body)

    def _failed(self, active: Active, error: BaseException) -> None:
        self._close(active, Op.FAIL, body=describe(error))

    def _stopped(self, active: Active, error: BaseException) -> None:
        """It was told to stop and did; without having been told it failed by its own."""
        why = active.stop
        if why == "timeout":
            limit = _options(active.claim.options).timeout
            body = describe_text("TimeLimit", f"it ran longer than its limit of {limit:g} s")
            self._close(active, Op.FAIL, outcome="timeout", body=body)
        elif why == "cancel":
            self._close(active, Op.CANCEL)
        elif why:
            self._close(active, Op.RELEASE, reason=why)
        else:
            self._failed(active, error)

    def _close(
        self,
        active: Active,
        op: Op,
        *,
        outcome: str = "failed",
        body: str = "",
        reason: str = "",
        cpu_ms: float = -1.0,
        peak_rss: int = -1,
    ) -> None:
        run_ms = (monotonic_ns() - active.started) / 1_000_000
        self._progress.forget(active.claim.task_id)
        self._desk.finish(
            active,
            _finish(
                active.claim,
                op,
                outcome=outcome,
                run_ms=round(run_ms, 3),
                body=body,
                reason=reason,
                cpu_ms=cpu_ms,
                peak_rss=peak_rss,
            ),
        )


def _finish(
    claim: Claim,
    op: Op,
    *,
    outcome: str = "failed",
    run_ms: float = 0.0,
    body: str = "",
    reason: str = "",
    cpu_ms: float = -1.0,
    peak_rss: int = -1,
) -> Finish:
    u = 0.0 if op is Op.OK else random.random()
    return Finish(
        claim.task_id, claim.entry, claim.epoch, op, outcome, run_ms, body, u, reason, cpu_ms, peak_rss
    )
