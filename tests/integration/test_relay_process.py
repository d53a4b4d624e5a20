"""The relay as a process of its own, behind the real functions: start, figures, stop, rivals, kill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path

import psycopg
import pytest

from taskq_core.audit.migrate import migrate
from taskq_core.broker.functions import Broker
from taskq_core.broker.protocol import Finish, Op, QueueWant, TakeWant
from taskq_core.model.codec import digest
from taskq_core.model.task import Options, Submission, pack_options
from tests.support.history import fresh_database, rows
from tests.support.servers import RunningServers, running_servers
from tests.support.wait import eventually, eventually_sync

CHECKOUT = Path(__file__).parents[2]
RUN = """
import asyncio, socket, sys
from services.relay import main
from taskq_core.config import Settings
from taskq_core.log import setup_logging

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
print(port, flush=True)
setup_logging("relay")
asyncio.run(main(Settings(redis_url=sys.argv[1], database_url=sys.argv[2]), metrics_port=port))
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServers]:
    with running_servers(tmp_path_factory.mktemp("both")) as both:
        yield both


@pytest.fixture
def database(servers: RunningServers) -> str:
    url = fresh_database(servers.database_url)
    asyncio.run(migrate(url))

    async def flush() -> None:
        async with await Broker.connect(servers.redis_url) as broker:
            await broker.redis.flushdb()

    asyncio.run(flush())
    return url


@contextlib.contextmanager
def process(servers: RunningServers, database: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """A relay process, and the address of its figures."""
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, servers.redis_url, database],
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    assert child.stdout is not None
    try:
        yield child, f"http://127.0.0.1:{child.stdout.readline().strip()}"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def is_running(address: str) -> bool:
    return 'taskq_relay_state{state="running"} 1.0' in get(f"{address}/metrics")[1]


async def run_tasks(broker: Broker, count: int, *, finish: bool = True) -> list[str]:
    """Submit, take and (perhaps) finish tasks as a runner does."""
    options, payload = pack_options(Options()), '{"a": 1}'
    ids = await broker.new_ids(count)
    tasks = [
        Submission(
            id=one,
            name="t",
            queue="q",
            priority="normal",
            payload=payload,
            options=options,
            digest=digest(payload.encode()),
        )
        for one in ids
    ]
    await broker.ensure(["q"])
    await broker.submit(tasks)
    if finish:
        want = TakeWant("r1", "v1", [count], [QueueWant("q", [1])], ["high", "normal", "low"])
        taken = await broker.take(want)
        ends = [Finish(c.task_id, c.entry, c.epoch, Op.OK, run_ms=1.5, body='{"b": 2}') for c in taken.claims]
        await broker.settle("r1", ends)
    return ids


def states(database: str) -> dict[str, int]:
    found = rows(database, "SELECT state, count(*) AS n FROM taskq.tasks GROUP BY state")
    return {row["state"]: row["n"] for row in found}


def test_from_submit_to_history(servers: RunningServers, database: str) -> None:
    async def story() -> None:
        async with await Broker.connect(servers.redis_url) as broker:
            done = await run_tasks(broker, 20)
            waiting = await run_tasks(broker, 5, finish=False)
            await eventually(lambda: states(database) == {"succeeded": 20, "queued": 5}, "the history")
            keys = broker.keys
            await eventually(lambda: all_expire(broker, done), "finished tasks to expire after the COMMIT")
            assert [await broker.redis.ttl(keys.task(one)) for one in waiting] == [-1] * 5

    async def all_expire(broker: Broker, ids: list[str]) -> bool:
        return all([await broker.redis.ttl(broker.keys.task(one)) > 0 for one in ids])

    with process(servers, database) as (child, address):
        asyncio.run(story())
        assert "taskq_relay_committed_events_total 65.0" in get(f"{address}/metrics")[1]
        assert "taskq_relay_backlog_events" in get(f"{address}/metrics")[1]
        assert get(f"{address}/health/ready")[0] == 200
        assert get(f"{address}/nothing")[0] == 404
        assert Path(f"/proc/{child.pid}/cmdline").read_bytes().startswith(b"taskq relay")
        began = time.monotonic()
        child.terminate()
        assert child.wait(5) == 0
        assert time.monotonic() - began < 1.5
    (found,) = rows(
        database, "SELECT count(*) AS n, max(n) AS last, count(DISTINCT n) AS each FROM taskq.events"
    )
    assert found == {"n": 65, "last": 65, "each": 65}


def test_it_waits_for_a_database_that_is_not_set_up(servers: RunningServers) -> None:
    empty = fresh_database(servers.database_url)
    with process(servers, empty) as (_, address):
        eventually_sync(lambda: get(f"{address}/health/ready")[0] == 503, "not ready")
        assert get(f"{address}/health/live")[0] == 200
        asyncio.run(migrate(empty))
        eventually_sync(lambda: get(f"{address}/health/ready")[0] == 200, "ready once it is set up")


@pytest.mark.slow
def test_two_processes_one_killed(servers: RunningServers, database: str) -> None:
    async def work(count: int) -> None:
        async with await Broker.connect(servers.redis_url) as broker:
            await run_tasks(broker, count)

    with process(servers, database) as one, process(servers, database) as two:
        eventually_sync(lambda: is_running(one[1]) or is_running(two[1]), "one to run")
        asyncio.run(work(50))
        first, second = (one, two) if is_running(one[1]) else (two, one)
        assert not is_running(second[1])
        asyncio.run(work(50))
        os.kill(first[0].pid, signal.SIGKILL)
        began = time.monotonic()
        asyncio.run(work(50))
        eventually_sync(lambda: states(database) == {"succeeded": 150}, "the second to take over", timeout=15)
        assert time.monotonic() - began < 10
    (found,) = rows(database, "SELECT count(*) AS n, max(n) AS last FROM taskq.events")
    assert found == {"n": 450, "last": 450}


@pytest.mark.slow
def test_killed_again_and_again_under_load(servers: RunningServers, database: str) -> None:
    async def load(batches: int) -> None:
        async with await Broker.connect(servers.redis_url) as broker:
            for _ in range(batches):
                await run_tasks(broker, 100)

    for _ in range(4):
        with process(servers, database) as (child, address):
            eventually_sync(lambda address=address: is_running(address), "it to run")
            asyncio.run(load(10))
            child.kill()
    with process(servers, database):
        eventually_sync(lambda: states(database) == {"succeeded": 4000}, "all of it", timeout=30)
    (found,) = rows(
        database,
        "SELECT count(*) AS n, max(n) AS last, (SELECT count(*) FROM taskq.payloads) AS bodies,"
        " (SELECT count(*) FROM taskq.attempts WHERE outcome = 'succeeded') AS runs FROM taskq.events",
    )
    assert found == {"n": 12_000, "last": 12_000, "runs": 4000, "bodies": 4000}


def test_a_missing_setting_is_said() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", RUN, "", ""],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        check=False,
        timeout=30,
    )
    assert "the relay needs TASKQ_REDIS_URL and TASKQ_DATABASE_URL" in answer.stderr


def test_the_relays_session_is_named(servers: RunningServers, database: str) -> None:
    with process(servers, database) as (_, address):
        eventually_sync(lambda: is_running(address), "it to run")
        with psycopg.connect(database) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'taskq relay'"
            ).fetchone()
        assert found == (1,)
