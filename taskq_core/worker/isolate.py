"""An isolated process: runs one task at a time, holds no connection, may die.

Started by a runner as ``python -m taskq_core.worker.isolate <fd>``; the modules to import come as JSON in
TASKQ_ISOLATE.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

import msgspec
import setproctitle

from taskq_core.context import Current, enter
from taskq_core.errors import InvalidJson, InvalidPayload, Permanent
from taskq_core.model.codec import MAX_RESULT, decode_json, encode_json
from taskq_core.tasks import Task
from taskq_core.worker.failure import describe, describe_large_result, describe_text
from taskq_core.worker.frames import Answer, Job, Report, recv_frame, send_frame
from taskq_core.worker.loading import load_tasks
from taskq_core.worker.process import die_with_parent, ignore

__all__ = ["main"]

# ru_maxrss counts kilobytes on Linux and bytes on macOS.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def _run(task: Task[..., Any], job: Job, sock: socket.socket) -> tuple[str, str]:
    """(op, body) of one job."""
    metadata = decode_json(job.metadata.encode()) if job.metadata else None
    enter(
        Current(
            job.task_id,
            job.attempt,
            job.epoch,
            metadata,
            lambda fraction, message: send_frame(sock, Report(fraction, message)),
        )
    )
    try:
        value = task.fn(**task.bind(job.payload))
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
        body = encode_json(value).decode()
    except (Permanent, InvalidPayload, InvalidJson) as error:
        return "permanent", describe(error)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  # user code may raise anything
        return "fail", describe(error)
    if len(body) > MAX_RESULT:
        return "permanent", describe_large_result(len(body))
    return "ok", body


async def _awaited(value: Any) -> Any:
    return await value


def _serve(sock: socket.socket, tasks: dict[str, Task[..., Any]]) -> None:
    while (job := recv_frame(sock)) is not None:
        task = tasks.get(job.name)
        before = time.process_time()
        if task is None:
            op, body = (
                "fail",
                describe_text("UnknownTask", f"{job.name} is not known to the isolated process"),
            )
        else:
            op, body = _run(task, job, sock)
        cpu_ms = round((time.process_time() - before) * 1000, 3)
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
        send_frame(sock, Answer(op, body, cpu_ms, rss))


def main() -> None:
    """Import the user's modules, say so, serve until the runner is gone."""
    die_with_parent()
    ignore(signal.SIGINT)  # Ctrl-C is for the one who started everything
    setproctitle.setproctitle("taskq isolated")
    sock = socket.socket(fileno=int(sys.argv[1]))
    tasks = load_tasks(msgspec.json.decode(os.environ["TASKQ_ISOLATE"], type=list[str]))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the runner is gone
        send_frame(sock, Report(0.0, "ready"))
        _serve(sock, tasks)


if __name__ == "__main__":
    main()
