"""How fast the relay carries events into Postgres: a full stream is drained, and figures are printed.

    python -m bench.relay [tasks] [tasks per call]

Three events per task (submitted, started, succeeded), a payload of 300 bytes, the embedded servers with
their usual settings (synchronous_commit on, appendonly everysec), one relay process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psycopg

from taskq_core.audit.migrate import migrate
from taskq_core.audit.relay import Relay
from taskq_core.broker.functions import Broker
from taskq_core.broker.stream import StreamSource
from taskq_core.embedded import Servers
from taskq_core.model.event import Detail, Event, EventBatch
from taskq_core.model.ids import new_ids
from taskq_core.model.lifecycle import Kind
from taskq_core.model.task import Options, pack_options

_PAYLOAD = '{"source":"cat.jpg","note":"' + "x" * 270 + '"}'
_encode = msgspec.msgpack.Encoder().encode


def batches(tasks: int, per_call: int, now: int) -> list[bytes]:
    """Stream entries as the functions write them: one a call, each task submitted, then run."""
    packed: list[bytes] = []
    n = 1
    options = pack_options(Options())
    submit = Detail(name="image.resize", queue="images", priority="normal", payload=_PAYLOAD, options=options,
                    digest="0" * 32)  # fmt: skip
    start = Detail(name="image.resize", queue="images", wait_ms=3.0, code_version="bench")
    end = Detail(name="image.resize", queue="images", run_ms=12.5, result='{"width":256,"height":171}')
    for _ in range(tasks // per_call):
        ids = new_ids(per_call, now)
        calls = (
            ("", [Event(Kind.SUBMITTED, task, 0, 0, submit) for task in ids]),
            ("host-1-0", [Event(Kind.STARTED, task, 1, 1, start) for task in ids]),
            ("host-1-0", [Event(Kind.SUCCEEDED, task, 1, 1, end) for task in ids]),
        )
        for worker, events in calls:
            packed.append(_encode(EventBatch(1, n, now, worker, events)))
            n += len(events)
    return packed


async def fill(broker: Broker, tasks: int, per_call: int) -> None:
    """Put the entries into the stream."""
    packed = batches(tasks, per_call, broker.clock.now_ms())
    for start in range(0, len(packed), 500):
        async with broker.redis.pipeline(transaction=False) as pipe:
            for one in packed[start : start + 500]:
                pipe.xadd(broker.keys.events, {"e": one})
            await pipe.execute()
    await broker.redis.hset(broker.keys.meta, "n", tasks // per_call * per_call * 3)


async def drain(relay: Relay, events: int) -> tuple[float, float]:
    """Seconds, and processor seconds of this process, until all is committed."""
    stop = asyncio.Event()
    began, used = time.perf_counter(), time.process_time()
    running = asyncio.create_task(relay.run(stop))
    while relay.stats.committed < events and not running.done():
        await asyncio.sleep(0.01)
    took = time.perf_counter() - began, time.process_time() - used
    stop.set()
    await running
    return took


async def main(tasks: int, per_call: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(Path(folder))
        await servers.start()
        try:
            await migrate(servers.database_url)
            async with await Broker.connect(servers.redis_url) as broker:
                await fill(broker, tasks, per_call)
                relay = Relay(StreamSource(broker), servers.database_url)
                events = tasks // per_call * per_call * 3
                seconds, used = await drain(relay, events)
            async with await psycopg.AsyncConnection.connect(servers.database_url) as connection:
                cursor = await connection.execute(
                    "SELECT count(*) FROM taskq.tasks WHERE state = 'succeeded'"
                )
                kept = await cursor.fetchone()
        finally:
            await servers.stop()
    print(f"{events:,} events of {tasks:,} tasks, {per_call} tasks a call, payload {len(_PAYLOAD)} bytes")
    print(f"{events / seconds:,.0f} events/s in {seconds:.2f} s; relay used {used / seconds:.0%} of one core")
    print(f"{relay.stats}\nsucceeded tasks kept: {kept}; {os.cpu_count()} cores")


if __name__ == "__main__":
    asyncio.run(main(*(int(word) for word in [*sys.argv[1:], "50000", "20"][:2])))
