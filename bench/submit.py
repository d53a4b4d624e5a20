"""How fast tasks are accepted, how soon an idle system starts one, and what a waiting task weighs.

    python -m bench.submit

One process submits through the Python client; no worker runs but for the latency, no relay but for the
weight.
"""

from __future__ import annotations

import asyncio
import time

from bench.common import QUEUE, RUNS, conditions, empty, queue_up, role, servers, summary, until
from bench.tasks import app as declared
from taskq_core import TaskQ
from taskq_core.audit.migrate import migrate
from taskq_core.broker.functions import Broker

BATCH = 50_000
SINGLE = 5_000
LATENCIES = 500
WEIGHED = 50_000
PAYLOAD = '{"note":"' + "x" * 289 + '"}'


def declare(app: TaskQ) -> None:
    """The tasks of bench.tasks on an app with an address."""
    for task in declared.tasks.values():
        app.task(task.name, queue=task.queue)(task.fn)


async def batch_rate(app: TaskQ) -> float:
    calls: list[dict[str, object]] = [{} for _ in range(BATCH)]
    begin = time.perf_counter()
    await app.tasks["bench.noop"].submit_many(calls)
    return BATCH / (time.perf_counter() - begin)


async def single_rate(app: TaskQ) -> float:
    task = app.tasks["bench.noop"]
    begin = time.perf_counter()
    for _ in range(SINGLE):
        await task.submit()
    return SINGLE / (time.perf_counter() - begin)


async def latencies(app: TaskQ) -> list[float]:
    """Ms from the call of submit to the first line of the task, one at a time, sorted."""
    task = app.tasks["bench.stamp"]
    found: list[float] = []
    for _ in range(LATENCIES):
        begin = time.monotonic_ns()
        handle = await task.submit()
        found.append((int(await handle.result(timeout=10)) - begin) / 1e6)
        await asyncio.sleep(0.005)  # idle again
    return sorted(found)


async def weight(broker: Broker, env: dict[str, str]) -> float:
    """Bytes of Redis a waiting task, 300 bytes of payload, the relay drained and the grace over."""
    await empty(broker)
    base = (await broker.redis.info("memory"))["used_memory"]
    async with role("relay", env=env):
        await queue_up(broker, "bench.noop", WEIGHED, PAYLOAD)

        async def drained() -> bool:
            return await broker.redis.xlen(broker.keys.events) <= 1

        await until(drained, 0.5)
    return ((await broker.redis.info("memory"))["used_memory"] - base) / WEIGHED


async def main() -> None:
    async with servers() as running:
        await migrate(running.database_url)
        env = {"TASKQ_REDIS_URL": running.redis_url, "TASKQ_DATABASE_URL": running.database_url}
        print(conditions("Valkey and PostgreSQL embedded, defaults"))
        async with await Broker.connect(running.redis_url) as broker, TaskQ(running.redis_url) as app:
            declare(app)
            batch: list[float] = []
            single: list[float] = []
            for _ in range(RUNS):
                await empty(broker)
                batch.append(await batch_rate(app))
                single.append(await single_rate(app))
            print(f"batch     {summary(batch, 'tasks/s')}")
            print(f"single    {summary(single, 'tasks/s')}, one coroutine, each awaited")
            await empty(broker)
            async with role("worker", "--queues", QUEUE, "--import", "bench.tasks", env=env):
                await (await app.tasks["bench.stamp"].submit()).result(timeout=30)
                found = await latencies(app)
            p50, p99 = found[len(found) // 2], found[len(found) * 99 // 100]
            print(f"start     p50 {p50:.2f} ms, p99 {p99:.2f} ms, idle system")
            size = await weight(broker, env)
            print(f"weight    {size:,.0f} bytes of Redis a waiting task, payload {len(PAYLOAD)} bytes")


if __name__ == "__main__":
    asyncio.run(main())
