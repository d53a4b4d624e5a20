"""The command side against a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from taskq_core.app import TaskQ
from taskq_core.broker.functions import Broker
from taskq_core.broker.protocol import Op, Submitted
from taskq_core.broker.redis import make_redis
from taskq_core.catalog import load, register
from taskq_core.client import Client, Request
from taskq_core.direct import DirectBackend
from taskq_core.errors import (
    Conflict,
    InvalidJson,
    InvalidOption,
    InvalidPayload,
    NotFound,
    TaskCancelled,
    TaskDead,
    TaskqError,
    TooLarge,
    Unavailable,
    UnknownTask,
)
from taskq_core.idempotency import reserve
from taskq_core.lane import Lane
from taskq_core.model.event import decode_batch
from taskq_core.model.ids import new_id
from taskq_core.model.order import build
from taskq_core.model.task import Submission
from tests.support.loop import in_loop
from tests.support.running import settle, take
from tests.support.servers import ServerHandle, start_redis
from tests.support.wait import eventually, eventually_sync

QUEUE = "sums"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHandle]:
    handle = start_redis(tmp_path_factory.mktemp("redis"))
    yield handle
    handle.stop()


class System:
    """An app, its client, and the broker under it."""

    def __init__(self, app: TaskQ, backend: DirectBackend, broker: Broker) -> None:
        self.app = app
        self.backend = backend
        self.broker = broker
        self.client = Client(backend, app.tasks, app)

    async def stored(self) -> list[str]:
        """The ids of all tasks, in the order in which they would be taken."""
        entries = await self.broker.redis.xrange(self.broker.keys.ready(QUEUE, "normal"))
        return [fields[b"t"].decode() for _, fields in entries]

    async def calls(self) -> int:
        """How many function calls the server has seen."""
        return int((await self.broker.redis.info("commandstats"))["cmdstat_fcall"]["calls"])


def make_app(url: str) -> TaskQ:
    app = TaskQ(redis_url=url)

    @app.task("sums.add", queue=QUEUE)
    async def add(a: int, b: int) -> int:  # pyright: ignore[reportUnusedFunction]
        return a + b

    return app


@asynccontextmanager
async def a_system(server: ServerHandle, *, patience: float = 20.0) -> AsyncGenerator[System]:
    app = make_app(server.url)
    backend = DirectBackend(server.url, patience=patience)
    broker = await backend.broker()
    await broker.redis.flushall()
    system = System(app, backend, broker)
    try:
        yield system
    finally:
        await system.client.close()
        await app.close()


type Test = Callable[[System], Coroutine[Any, Any, None]]


@pytest.fixture
def run(server: ServerHandle) -> Callable[[Test], None]:
    def run_test(test: Test) -> None:
        async def story() -> None:
            async with a_system(server) as system:
                await test(system)

        asyncio.run(story())

    return run_test


type Run = Callable[[Test], None]


# --- the end of a task


def test_a_result_is_pushed(run: Run) -> None:
    async def test(system: System) -> None:
        task = await system.client.submit("sums.add", {"a": 1, "b": 2})
        assert (task.state, task.queue, task.deduplicated) == ("queued", QUEUE, False)
        waiting = [asyncio.create_task(task.result(timeout=20)) for _ in range(20)]
        (claim,) = await take(system.broker, QUEUE)
        assert claim.task_id == task.id
        await eventually(
            lambda: system.broker.redis.hget(system.broker.keys.task(task.id), "ch"), "the channel"
        )
        assert await settle(system.broker, claim, body="3") == "succeeded"
        started = asyncio.get_running_loop().time()
        assert await asyncio.gather(*waiting) == [3] * 20
        assert asyncio.get_running_loop().time() - started < 4  # by push, before anyone asks again
        assert await system.client.result(task.id) == 3

    run(test)


def test_a_lost_channel_is_made_good(run: Run) -> None:
    async def test(system: System) -> None:
        task = await system.client.submit("sums.add", {"a": 1, "b": 2})
        waiting = asyncio.create_task(task.result(timeout=20))
        (claim,) = await take(system.broker, QUEUE)
        await eventually(
            lambda: system.broker.redis.hget(system.broker.keys.task(task.id), "ch"), "the channel"
        )
        await system.broker.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await settle(system.broker, claim, body="3")
        assert await waiting == 3

    run(test)


def test_other_ends(run: Run) -> None:
    async def test(system: System) -> None:
        client = system.client
        dead = await client.submit("sums.add", {"a": 1, "b": 2}, max_attempts=1)
        (claim,) = await take(system.broker, QUEUE)
        await settle(system.broker, claim, Op.FAIL, '{"type":"ValueError","message":"no"}')
        with pytest.raises(TaskDead, match="ValueError: no"):
            await dead.result(timeout=5)
        gone = await client.submit("sums.add", {"a": 1, "b": 2})
        assert await gone.cancel("not needed") == "cancelled"
        with pytest.raises(TaskCancelled):
            await gone.result(timeout=5)
        slow = await client.submit("sums.add", {"a": 1, "b": 2})
        with pytest.raises(TimeoutError, match=r"is queued after 0[.]1 s"):
            await slow.result(timeout=0.1)
        with pytest.raises(NotFound):
            await client.result(new_id(system.broker.clock.now_ms()))
        with pytest.raises(NotFound, match="not a task id"):
            await client.result("x")

    run(test)


# --- what is accepted


def test_bad_input_is_refused_before_it_leaves(run: Run) -> None:
    async def test(system: System) -> None:
        submit = system.client.submit
        before = await system.calls()
        cases: Sequence[tuple[type[TaskqError], str, Any, dict[str, Any]]] = [
            (InvalidPayload, "sums.add", {"a": 1}, {}),
            (InvalidPayload, "sums.add", b'{"a":1,"b":"2"}', {}),
            (InvalidPayload, "sums.add", b"[]", {}),
            (InvalidJson, "sums.add", b'{"a":1,"a":1,"b":2}', {}),
            (InvalidJson, "sums.add", b"{", {}),
            (InvalidJson, "sums.add", {"a": float("nan"), "b": 1}, {}),
            (TooLarge, "sums.add", b'"' + b"x" * 262_144 + b'"', {}),
            (InvalidOption, "sums.add", {"a": 1, "b": 2}, {"queue": "a:b"}),
            (InvalidOption, "sums.add", {"a": 1, "b": 2}, {"dealy": 1}),
            (InvalidOption, "sums.add", {"a": 1, "b": 2}, {"run_at": "1970-01-01T00:00:00Z"}),
            (UnknownTask, "sums.ad", {}, {}),
            (UnknownTask, "__import__('os')", {}, {}),
        ]
        for error, name, payload, options in cases:
            with pytest.raises(error):
                await submit(name, payload, **options)
        assert await system.calls() == before
        assert await system.stored() == []

    run(test)


def test_bytes_arrive_as_they_were_given(run: Run) -> None:
    async def test(system: System) -> None:
        raw = b'{ "b": 9007199254740993, "a":1 }'
        task = await system.client.submit("sums.add", raw)
        assert await system.broker.redis.hget(system.broker.keys.task(task.id), "d") == raw

    run(test)


def test_tasks_of_others_come_from_the_catalog(run: Run) -> None:
    async def test(system: System) -> None:
        stranger = Client(system.backend)
        with pytest.raises(UnknownTask, match="there is none yet"):
            await stranger.submit("sums.add", {"a": 1, "b": 2})
        await register(system.broker.redis, system.app.tasks.values(), "v1", 1000)
        task = await eventually(lambda: try_submit(stranger, {"a": 1, "b": 2}), "the name to be known")
        assert task is not None
        assert task.queue == QUEUE
        with pytest.raises(InvalidPayload, match='b: "x" is not of type "integer"'):
            await stranger.submit("sums.add", {"a": 1, "b": "x"})
        with pytest.raises(InvalidPayload, match="c"):
            await stranger.submit("sums.add", {"a": 1, "b": 2, "c": 3})
        with pytest.raises(UnknownTask, match=r"did you mean 'sums[.]add'"):
            await stranger.submit("sums.adds", {})

    async def try_submit(client: Client, payload: dict[str, Any]) -> Any:
        try:
            return await client.submit("sums.add", payload)
        except (UnknownTask, InvalidPayload):
            return None

    run(test)


def test_a_payload_is_good_when_any_live_version_accepts_it(run: Run) -> None:
    async def test(system: System) -> None:
        redis, week = system.broker.redis, 7 * 86_400_000
        newer = TaskQ(redis_url="redis://unused")

        @newer.task("sums.add", queue="other")
        async def add(a: int, c: int) -> int:  # pyright: ignore[reportUnusedFunction]
            return a + c

        await register(redis, system.app.tasks.values(), "v1", 1000)
        await register(redis, newer.tasks.values(), "v2", 2000)
        catalog = await load(redis)
        assert catalog.check("sums.add", b'{"a":1,"b":2}').queue == "other"
        assert catalog.check("sums.add", b'{"a":1,"c":2}').versions.keys() == {"v1", "v2"}
        with pytest.raises(InvalidPayload):
            catalog.check("sums.add", b'{"a":1}')
        await register(redis, newer.tasks.values(), "v2", 1000 + week)
        catalog = await load(redis)
        assert catalog.entry("sums.add").versions.keys() == {"v2"}
        await register(redis, [], "v3", 1000 + 3 * week)
        assert (await load(redis)).entries == []

    run(test)


def test_many_workers_register_at_once(run: Run) -> None:
    async def test(system: System) -> None:
        redis, tasks = system.broker.redis, system.app.tasks.values()
        await asyncio.gather(*(register(redis, tasks, f"v{n}", 1000) for n in range(8)))
        assert len((await load(redis)).entry("sums.add").versions) == 8

    run(test)


# --- exactly one task


def test_single_submits_share_calls(run: Run) -> None:
    async def test(system: System) -> None:
        await system.client.submit("sums.add", {"a": 1, "b": 2})
        before = await system.calls()
        tasks = await asyncio.gather(
            *(system.client.submit("sums.add", {"a": n, "b": 2}) for n in range(200))
        )
        assert await system.calls() - before == 2  # the first went at once, the others together
        assert (await system.stored())[1:] == [task.id for task in tasks]

    run(test)


def test_the_short_way_is_taken(run: Run) -> None:
    """It rests on a private attribute of the Redis library: a new version must not lose it in silence."""

    async def test(system: System) -> None:
        lane = Lane(system.broker.url, system.broker.keys.events)
        assert await lane.submit(submissions(system, 1), "") is not None
        await lane.close()

    run(test)


def test_the_short_way_gives_up_and_comes_back(run: Run) -> None:
    async def test(system: System) -> None:
        lane = Lane(system.broker.url, system.broker.keys.events)
        assert await lane.submit(submissions(system, 1), "") is not None
        await system.broker.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        async def answered() -> bool:
            return await lane.submit(submissions(system, 1), "") is not None

        await eventually(answered, "the lane to connect again")
        assert await lane.submit(submissions(system, 501), "") is None
        await lane.close()

    run(test)


class Forgetful(Lane):
    """A lane whose answers are lost on the way."""

    async def submit(self, tasks: Sequence[Submission], actor: str) -> list[Submitted] | None:
        await super().submit(tasks, actor)
        return None


def test_a_lost_answer_makes_no_second_task(run: Run) -> None:
    async def test(system: System) -> None:
        backend: Any = system.backend
        await backend._lane.close()
        backend._lane = Forgetful(system.broker.url, system.broker.keys.events)
        task = await system.client.submit("sums.add", {"a": 1, "b": 2})
        assert not task.deduplicated
        tasks = await asyncio.gather(*(system.client.submit("sums.add", {"a": n, "b": 2}) for n in range(50)))
        assert await system.stored() == [task.id, *(one.id for one in tasks)]

    run(test)


@in_loop
async def test_submits_survive_a_crash_of_the_server(server: ServerHandle) -> None:
    async with a_system(server) as system:
        accepted: list[str] = []

        async def caller(number: int) -> None:
            for turn in range(40):
                task = await system.client.submit("sums.add", {"a": number, "b": turn})
                accepted.append(task.id)

        callers = [asyncio.create_task(caller(number)) for number in range(20)]
        await eventually(lambda: len(accepted) > 100, "some tasks to be accepted", every=0.001)
        server.kill()
        await server.restart_async()
        await asyncio.gather(*callers)
        assert sorted(await system.stored()) == sorted(accepted)
        assert len(set(accepted)) == 800


@in_loop
async def test_patience_ends(server: ServerHandle) -> None:
    async with a_system(server, patience=0.3) as system:
        server.kill()
        try:
            with pytest.raises(Unavailable):
                await system.client.submit("sums.add", {"a": 1, "b": 2})
        finally:
            await server.restart_async()


def test_a_unique_key_gives_the_first_task_back(run: Run) -> None:
    async def test(system: System) -> None:
        submit = system.client.submit
        first = await submit("sums.add", {"a": 1, "b": 2}, unique_key="k")
        again = await submit("sums.add", {"a": 5, "b": 5}, unique_key="k")
        other = await submit("sums.add", {"a": 1, "b": 2}, unique_key="k", queue="elsewhere")
        assert (again.id, again.deduplicated) == (first.id, True)
        assert other.id != first.id
        await first.cancel()
        assert (await submit("sums.add", {"a": 1, "b": 2}, unique_key="k")).id != first.id

    run(test)


def test_an_idempotency_key_makes_one_task(run: Run) -> None:
    async def test(system: System) -> None:
        submit = system.client.submit_idempotent
        payload = {"a": 1, "b": 2}
        first, is_first = await submit("sums.add", payload, key_id="k1", idempotency_key="x")
        again, is_first_again = await submit("sums.add", payload, key_id="k1", idempotency_key="x")
        assert (is_first, is_first_again, again.id) == (True, False, first.id)
        with pytest.raises(Conflict, match=first.id):
            await submit("sums.add", {"a": 2, "b": 2}, key_id="k1", idempotency_key="x")
        with pytest.raises(Conflict, match=first.id):
            await submit("sums.add", payload, key_id="k1", idempotency_key="x", delay=5)
        other, _ = await submit("sums.add", payload, key_id="k2", idempotency_key="x")
        assert other.id != first.id
        with pytest.raises(InvalidOption, match="Idempotency-Key"):
            await submit("sums.add", payload, key_id="k1", idempotency_key="")
        assert sorted(await system.stored()) == sorted([first.id, other.id])

    run(test)


def test_same_key_at_the_same_time(run: Run) -> None:
    async def test(system: System) -> None:
        replies = await asyncio.gather(
            *(
                system.client.submit_idempotent("sums.add", {"a": 1, "b": 2}, key_id="k", idempotency_key="x")
                for _ in range(20)
            )
        )
        assert len({task.id for task, _ in replies}) == 1
        assert [first for _, first in replies].count(True) == 1
        assert len(await system.stored()) == 1

    run(test)


def test_a_reservation_that_a_crash_left_is_finished(run: Run) -> None:
    async def test(system: System) -> None:
        order = await system.client.check("sums.add", {"a": 1, "b": 2}, {})
        wanted = build(order, new_id(system.broker.clock.now_ms()), 0)
        await reserve(system.broker, "k", "x", wanted)  # and then the process died
        task, first = await system.client.submit_idempotent(
            "sums.add", {"a": 1, "b": 2}, key_id="k", idempotency_key="x"
        )
        assert (task.id, first) == (wanted.id, False)
        assert await system.stored() == [wanted.id]

    run(test)


def submissions(system: System, count: int) -> list[Submission]:
    order = system.app.tasks["sums.add"].order(b'{"a":1,"b":2}')
    now = system.broker.clock.now_ms()
    return [build(order, new_id(now), now) for _ in range(count)]


# --- many


def test_a_batch_answers_each_in_its_place(run: Run) -> None:
    async def test(system: System) -> None:
        good = {"a": 1, "b": 2}
        replies = await system.client.submit_batch(
            [
                Request("sums.add", good),
                Request("sums.add", {"a": 1}),
                Request("nothing", {}),
                Request("sums.add", good, {"delay": -1}),
                Request("sums.add", good, {"run_at": "9999-01-01T00:00:00Z"}),
                Request("sums.add", b'{"a":3,"b":4}', {"priority": "high"}),
            ]
        )
        codes = [reply.code if isinstance(reply, TaskqError) else "" for reply in replies]
        assert codes == ["", "invalid_payload", "unknown_task", "invalid_option", "invalid_option", ""]

    run(test)


def test_many_keep_their_order(run: Run) -> None:
    async def test(system: System) -> None:
        tasks = await system.app.tasks["sums.add"].submit_many([{"a": n, "b": 0} for n in range(1203)])
        assert await system.stored() == [task.id for task in tasks]

    run(test)


@in_loop
async def test_a_batch_keeps_its_receipts_when_the_server_goes(server: ServerHandle) -> None:
    async with a_system(server, patience=0.3) as system:
        await system.client.submit("sums.add", {"a": 1, "b": 2})
        sent = asyncio.create_task(
            system.client.submit_batch([Request("sums.add", {"a": 1, "b": 2})] * 20_000)
        )
        stored = system.broker.keys.ready(QUEUE, "normal")
        watcher = make_redis(server.url, name="watcher")
        await eventually(lambda: is_longer(watcher, stored, 500), "a part to be accepted", every=0.001)
        server.kill()
        try:
            replies = await sent
        finally:
            await watcher.aclose()
            await server.restart_async()
        accepted = [reply.id for reply in replies if not isinstance(reply, TaskqError)]
        assert len(replies) == 20_000
        assert 500 <= len(accepted) < 20_000
        assert {reply.code for reply in replies if isinstance(reply, TaskqError)} == {"unavailable"}
        # one part may have been accepted whose answer was lost: its tasks have ids that nobody holds
        stored_ids = set(await eventually(system.stored, "the server to be back"))
        assert set(accepted) <= stored_ids


async def is_longer(redis: Any, stream: str, length: int) -> bool:
    return await redis.xlen(stream) > length


# --- a second chance


def test_cancel_and_retry(run: Run) -> None:
    async def test(system: System) -> None:
        client = system.client
        task = await client.submit("sums.add", {"a": 1, "b": 2})
        with pytest.raises(Conflict, match="is queued and cannot be retried"):
            await client.retry(task.id)
        assert await client.cancel(task.id, actor="me", reason="why") == "cancelled"
        with pytest.raises(InvalidPayload):
            await client.retry(task.id, {"a": 1})
        assert await client.retry(task.id, {"a": 5, "b": 6}, actor="me") == "queued"
        (claim,) = await take(system.broker, QUEUE)
        assert await system.broker.redis.hget(system.broker.keys.task(task.id), "d") == b'{"a":5,"b":6}'
        await settle(system.broker, claim, body="11")
        with pytest.raises(Conflict, match="is succeeded and cannot be cancelled"):
            await client.cancel(task.id)
        with pytest.raises(NotFound):
            await client.cancel(new_id(system.broker.clock.now_ms()))

    run(test)


def test_keys_are_made_and_revoked_in_the_history(run: Run) -> None:
    async def test(system: System) -> None:
        new = await system.client.create_key(["read"], label="ci", actor="me")
        assert [key.id for key in await system.client.list_keys()] == [new.key.id]
        await system.client.revoke_key(new.key.id, actor="me")
        assert await system.client.list_keys() == []
        batches = [
            decode_batch(fields[b"e"])
            for _, fields in await system.broker.redis.xrange(system.broker.keys.events)
        ]
        told = [event.detail for batch in batches for event in batch.events]
        assert [detail.action for detail in told] == ["create_key", "revoke_key"]
        assert new.token not in str(told)

    run(test)


# --- loops, threads, processes


def test_synchronous_forms(server: ServerHandle) -> None:
    app = make_app(server.url)
    add = app.tasks["sums.add"]
    task = add.submit_sync(a=1, b=2)
    with pytest.raises(TimeoutError):
        task.result_sync(timeout=0.05)
    assert len(add.submit_many_sync([{"a": 1, "b": 2}] * 3)) == 3
    asyncio.run(app.close())
    assert add.submit_sync(a=1, b=2).id != task.id  # and it may be used again
    asyncio.run(app.close())


def test_one_app_on_several_loops(server: ServerHandle) -> None:
    app = make_app(server.url)

    async def use() -> str:
        return (await app.tasks["sums.add"].submit(a=1, b=2)).id

    async def use_and_close() -> str:
        task_id = await use()
        await app.close()
        return task_id

    ids = {
        asyncio.run(use_and_close()),
        app.tasks["sums.add"].submit_sync(a=1, b=2).id,
        asyncio.run(use_and_close()),
    }
    assert len(ids) == 3


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_has_its_own_connections(server: ServerHandle, tmp_path: Path) -> None:
    app = make_app(server.url)
    add = app.tasks["sums.add"]
    first = add.submit_sync(a=1, b=2).id
    note = tmp_path / "id"
    child = os.fork()
    if child == 0:
        try:
            note.write_text(add.submit_sync(a=3, b=4).id)
        finally:
            os._exit(0)
    eventually_sync(lambda: os.waitpid(child, os.WNOHANG)[0] == child, "the child to end")
    assert note.read_text() not in {"", first}
    assert add.submit_sync(a=5, b=6).id not in {first, note.read_text()}
    asyncio.run(app.close())


def test_a_child_that_just_ends_disturbs_nobody(server: ServerHandle) -> None:
    script = """
import os, sys
from taskq_core import TaskQ
app = TaskQ(redis_url=sys.argv[1])
@app.task("t.noop")
async def noop() -> None: ...
noop.submit_sync()
child = os.fork()
if child == 0:
    noop.submit_sync()
    sys.exit(0)
os.waitpid(child, 0)
noop.submit_sync()
try:
    noop.submit_sync().result_sync(timeout=0.01)
except TimeoutError:
    print("done")
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, server.url],
        capture_output=True,
        text=True,
        check=True,
        timeout=9,  # a parent whose connection was struck from its epoll would wait for ten seconds
    )
    assert (ended.stdout, ended.stderr) == ("done\n", "")


@in_loop
async def test_a_closed_client_connects_again(server: ServerHandle) -> None:
    async with a_system(server) as system:
        await system.client.submit("sums.add", {"a": 1, "b": 2})
        await system.client.close()
        await system.client.submit("sums.add", {"a": 1, "b": 2})
