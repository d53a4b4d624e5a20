"""How many no-op tasks one worker runs in a second.

    python -m bench.throughput [tasks] [--relay] [--runs N]

The tasks wait in the queue before the worker starts: ``taskq worker --queues bench --processes 1`` with its
defaults. Counted from the first finished task that is seen to the last; API and dashboard do not run, the
relay only with --relay (Postgres runs and idles). The load maker is done before the clock starts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time

import psutil

from bench.common import RUNS, conditions, empty, ended, queue_up, role, servers, summary, until
from taskq_core.audit.migrate import migrate
from taskq_core.broker.functions import Broker

RELAY = {True: "relay", False: "no relay"}


def cpu_s(pid: int) -> float:
    """Processor seconds of a process and its children."""
    process = psutil.Process(pid)
    return sum(sum(p.cpu_times()[:2]) for p in [process, *process.children(recursive=True)])


async def one_run(
    broker: Broker, env: dict[str, str], tasks: int, *, relay: bool
) -> tuple[float, float, float]:
    """(tasks per second, µs of Redis per task, µs of the worker per task)."""
    await empty(broker)
    async with contextlib.AsyncExitStack() as stack:
        if relay:
            await stack.enter_async_context(role("relay", env=env))
        await queue_up(broker, "bench.noop", tasks)
        args = ("--queues", "bench", "--processes", "1", "--import", "bench.tasks")
        worker = await stack.enter_async_context(role("worker", *args, env=env))

        async def started() -> bool:
            return await ended(broker) > 0

        async def done() -> bool:
            return await ended(broker) >= tasks

        await until(started)
        redis_pid = int((await broker.redis.info("server"))["process_id"])
        before, first, begin = await ended(broker), (cpu_s(redis_pid), cpu_s(worker.pid)), time.perf_counter()
        await until(done, 0.02)
        seconds, count = time.perf_counter() - begin, tasks - before
        redis_us = (cpu_s(redis_pid) - first[0]) / count * 1e6
        return count / seconds, redis_us, (cpu_s(worker.pid) - first[1]) / count * 1e6


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="?", type=int, default=100_000)
    parser.add_argument("--relay", action="store_true")
    parser.add_argument("--runs", type=int, default=RUNS)
    given = parser.parse_args()
    async with servers() as running:
        await migrate(running.database_url)
        env = {"TASKQ_REDIS_URL": running.redis_url, "TASKQ_DATABASE_URL": running.database_url}
        async with await Broker.connect(running.redis_url) as broker:
            server = await broker.redis.info("server")
            version = server.get("valkey_version", server["redis_version"])
            name = f"{server.get('server_name', 'redis')} {version}"
            print(
                conditions(
                    f"{name} (appendonly everysec)",
                    "one worker, one runner",
                    "relay" if given.relay else "no relay",
                )
            )
            rates: list[float] = []
            for _ in range(given.runs):
                rate, redis_us, worker_us = await one_run(broker, env, given.tasks, relay=given.relay)
                rates.append(rate)
                print(f"  {rate:,.0f}/s · CPU a task: Redis {redis_us:.1f} µs, worker {worker_us:.1f} µs")
            print(f"no-op     {summary(rates, 'tasks/s')}")


if __name__ == "__main__":
    asyncio.run(main())
