"""The worker in this process, and a whole system around an app."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskq_core import Permanent, Retry, TaskCancelled, TaskDead, TaskQ, current
from taskq_core.broker.functions import Broker
from taskq_core.model.lifecycle import State
from taskq_core.testing import LocalWorker, conservation_faults, eventually
from tests.support.loop import in_loop
from tests.support.servers import ServerHandle, start_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHandle]:
    handle = start_redis(tmp_path_factory.mktemp("redis"))
    yield handle
    handle.stop()


@in_loop
async def test_all_ends_of_a_task(server: ServerHandle) -> None:
    app = TaskQ(redis_url=server.url)
    quick = Retry(max_attempts=2, base=0.01)

    @app.task("t.add", queue="local")
    async def add(a: int, b: int) -> int:
        return a + b

    @app.task("t.thread", queue="local")
    def thread(text: str) -> str:
        return text.upper()

    @app.task("t.flaky", queue="local", retry=quick)
    async def flaky() -> int:
        if current().attempt < 2:
            raise ValueError("once")
        return current().attempt

    @app.task("t.fail", queue="local", retry=quick)
    async def fail() -> None:
        raise ValueError("always")

    @app.task("t.permanent", queue="local")
    async def permanent() -> None:
        raise Permanent("never again")

    @app.task("t.slow", queue="local")
    async def slow() -> None:
        await asyncio.Event().wait()

    async with app, LocalWorker(app.tasks, server.url):
        assert await (await add.submit(1, b=2)).result(20) == 3
        assert await (await thread.submit("a")).result(20) == "A"
        assert await (await flaky.submit()).result(20) == 2
        with pytest.raises(TaskDead, match="ValueError: always"):
            await (await fail.submit()).result(20)
        with pytest.raises(TaskDead, match="never again"):
            await (await permanent.submit()).result(20)
        with pytest.raises(TaskDead, match="TimeLimit"):
            await (await slow.options(timeout=0.05, max_attempts=1).submit()).result(20)
        assert await (await add.options(delay=0.2).submit(3, 4)).result(20) == 7
        stuck = await slow.submit()
        await eventually(lambda: has_state(app, stuck.id, State.RUNNING), "the task to run")
        assert await stuck.cancel() == "running"
        with pytest.raises(TaskCancelled):
            await stuck.result(20)
        async with await Broker.connect(server.url) as broker:
            assert await conservation_faults(broker) == []


@in_loop
async def test_tasks_declared_later_run_too(server: ServerHandle) -> None:
    app = TaskQ(redis_url=server.url)
    async with app, LocalWorker(app.tasks, server.url):

        @app.task("t.later", queue="another")
        async def later(n: int) -> int:
            return n

        assert await (await later.submit(5)).result(20) == 5
        assert await (await app.client().submit("t.later", {"n": 6})).result(20) == 6


@in_loop
async def test_what_runs_is_given_back_at_the_end(server: ServerHandle) -> None:
    app = TaskQ(redis_url=server.url)

    @app.task("t.endless", queue="local")
    async def endless() -> None:
        await asyncio.Event().wait()

    async with app:
        async with LocalWorker(app.tasks, server.url, grace=0.05):
            task = await endless.submit()
            await eventually(lambda: has_state(app, task.id, State.RUNNING), "the task to run")
        assert await has_state(app, task.id, State.QUEUED)
        await task.cancel()


async def has_state(app: TaskQ, task_id: str, state: State) -> bool:
    backend: Any = app.client()._backend  # pyright: ignore[reportPrivateUsage]
    return (await backend.subject(task_id)).state == state


@in_loop
async def test_a_whole_system(tmp_path: Path) -> None:
    async with TaskQ.embedded(tmp_path / "data") as app:

        @app.task("t.add")
        async def add(a: int, b: int) -> int:
            return a + b

        task = await add.submit(a=1, b=2)
        assert await task.result(20) == 3
        view = await app.reader().task(task.id)
        assert (view.state, view.result) == ("succeeded", 3)
        names = [one.name for one in (await app.reader().catalog()).catalog]
        assert names == ["t.add"]

        async def in_history() -> bool:
            return any(event.kind == "succeeded" for event in (await app.reader().events(task.id)).events)

        await eventually(in_history, "the end to be in the history")
    assert (tmp_path / "data").exists()
