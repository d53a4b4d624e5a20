"""Commands about tasks that Redis has forgotten: answered from the history, or refused for a reason."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from taskq_core.app import TaskQ
from taskq_core.broker.counts import ledger
from taskq_core.broker.keys import ShardKeys
from taskq_core.broker.protocol import Claim, Op
from taskq_core.client import Client
from taskq_core.config import Settings
from taskq_core.errors import (
    Conflict,
    HistoryBehind,
    InvalidPayload,
    NotFound,
    PayloadNotKept,
    TaskCancelled,
    TaskDead,
    Unavailable,
    UniqueTaken,
)
from taskq_core.handle import TaskHandle
from taskq_core.idempotency import Reservation, replace, reserve
from taskq_core.model.ids import new_id
from taskq_core.model.order import build
from taskq_core.testing.conservation import conservation_faults
from tests.support.api import Api, running_api
from tests.support.automaton import audit
from tests.support.events import entry, submitted
from tests.support.history import execute, fresh_database
from tests.support.reading import System, a_system
from tests.support.running import settle, take
from tests.support.servers import RunningServers, running_servers
from tests.support.wait import eventually

SUMS = "sums"
PAYLOAD = {"a": 1, "b": 2}
AGO_MS = 100_000  # an id of this age is not accepted for the first time
NOWHERE = "postgresql://taskq@127.0.0.1:1/taskq"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServers]:
    with running_servers(tmp_path_factory.mktemp("both")) as both:
        yield both


def make_app() -> TaskQ:
    app = TaskQ()

    @app.task("sums.add", queue=SUMS)
    async def add(a: int, b: int) -> int:  # pyright: ignore[reportUnusedFunction]
        return a + b

    return app


class Story:
    """A system that a test moves by hand, and a client that knows the history."""

    def __init__(self, servers: RunningServers, system: System, client: Client) -> None:
        self.servers = servers
        self.system = system
        self.broker = system.broker
        self.keys: ShardKeys = system.broker.keys
        self.client = client

    @asynccontextmanager
    async def other_client(self, database_url: str) -> AsyncGenerator[Client]:
        async with client_of(self.servers.redis_url, database_url) as client:
            yield client

    async def submit(self, **options: Any) -> TaskHandle[Any]:
        return await self.client.submit("sums.add", PAYLOAD, **options)

    async def hash_of(self, task_id: str) -> dict[bytes, bytes]:
        return await self.broker.redis.hgetall(self.keys.task(task_id))

    async def claim(self) -> Claim:
        (claim,) = await take(self.broker, SUMS)
        return claim

    async def dead(self, body: str = '{"type":"E","message":"no"}', **options: Any) -> TaskHandle[Any]:
        task = await self.submit(**options)
        assert await settle(self.broker, await self.claim(), Op.PERMANENT, body) == "dead"
        return task

    async def succeeded(self, result: str) -> TaskHandle[Any]:
        task = await self.submit()
        assert await settle(self.broker, await self.claim(), Op.OK, result) == "succeeded"
        return task

    async def forget(self, task_id: str) -> None:
        """Carry everything into the history, then let the hash go as its TTL would."""
        await self.system.carry()
        assert await self.broker.redis.persist(self.keys.task(task_id)), "the relay sets a TTL"
        await self.broker.redis.delete(self.keys.task(task_id))

    async def check_books(self, *, idle: bool) -> None:
        assert await conservation_faults(self.broker, idle=idle) == []

    def check_chains(self, *task_ids: str) -> None:
        report = audit(self.servers.redis_url, self.system.database_url, task_ids)
        assert report.faults == []

    async def lost_reservation(self, age_ms: int = AGO_MS, key: str = "x") -> str:
        """An id that was reserved and never submitted, as far as its maker knew."""
        order = await self.client.check("sums.add", PAYLOAD, {})
        wanted = build(order, new_id(self.broker.clock.now_ms() - age_ms), 0)
        await reserve(self.broker, "k", key, wanted)
        return wanted.id

    async def submit_once(self, client: Client | None = None, key: str = "x") -> tuple[TaskHandle[Any], bool]:
        return await (client or self.client).submit_idempotent(
            "sums.add", PAYLOAD, key_id="k", idempotency_key=key
        )

    async def write_event(self, task_id: str) -> None:
        """An accepted submission of long ago, in the stream; its hash has come and gone."""
        n = await self.broker.redis.hincrby(self.keys.meta, "n", 1)
        now = self.broker.clock.now_ms()
        _, _, packed = entry(now, 0, n, [submitted(task_id, queue=SUMS)])
        await self.broker.redis.xadd(self.keys.events, {"e": packed or b""})


@asynccontextmanager
async def client_of(redis_url: str, database_url: str) -> AsyncGenerator[Client]:
    settings = Settings(redis_url=redis_url, database_url=database_url)
    async with Client.of(settings, make_app().tasks) as client:
        yield client


type Test = Callable[[Story], Coroutine[Any, Any, None]]
type Run = Callable[[Test], None]


@pytest.fixture
def run(servers: RunningServers) -> Run:
    """Run a story in an empty system with an empty history."""
    url = fresh_database(servers.database_url)

    def go(test: Test) -> None:
        async def whole() -> None:
            async with a_system(servers, url) as system, client_of(servers.redis_url, url) as client:
                await test(Story(servers, system, client))

        asyncio.run(whole())

    return go


# --- a new life


def test_a_forgotten_dead_letter_is_retried_as_it_was(run: Run) -> None:
    async def test(story: Story) -> None:
        options = {"priority": "high", "unique_key": "one", "metadata": {"user": 42}, "max_attempts": 2}
        task = await story.submit(backoff={"base": 0}, **options)
        assert await settle(story.broker, await story.claim(), Op.FAIL, '{"type":"E"}') == "retrying"
        assert (await story.broker.promote()).moved == 1
        assert await settle(story.broker, await story.claim(), Op.FAIL, '{"type":"E"}') == "dead"
        before = await story.hash_of(task.id)
        await story.forget(task.id)
        await story.broker.redis.srem(story.keys.queues, SUMS)

        assert await story.client.retry(task.id, actor="me", reason="why") == "queued"
        after = await story.hash_of(task.id)
        life = after.pop(b"l").decode()
        assert re.fullmatch(r"queued 2 0 \d+-\d+ - \d{13}", life), life
        assert after == {
            field: before[field] for field in (b"n", b"q", b"p", b"d", b"o", b"g", b"u", b"m", b"at")
        }
        assert await story.broker.redis.ttl(story.keys.task(task.id)) == -1
        assert await story.broker.redis.get(story.keys.unique(SUMS, "one")) == task.id.encode()
        assert await story.broker.redis.sismember(story.keys.queues, SUMS)
        assert await story.broker.redis.zscore(story.keys.dead, task.id) is None
        assert await story.submit(unique_key="one") == task
        books = await ledger(story.broker.redis, story.keys)
        assert (books.accepted, books.live, books.ended) == (2, 1, 1)
        await story.check_books(idle=False)

        claim = await story.claim()
        assert (claim.task_id, claim.epoch, claim.attempt) == (task.id, 3, 1)
        assert await settle(story.broker, claim, body="3") == "succeeded"
        assert await story.client.result(task.id) == 3
        assert await story.broker.redis.get(story.keys.unique(SUMS, "one")) is None
        await story.check_books(idle=True)
        await story.system.carry()
        attempts = (await story.system.reader.attempts(task.id)).attempts
        assert [(one.epoch, one.outcome) for one in attempts] == [
            (1, "failed"),
            (2, "failed"),
            (3, "succeeded"),
        ]
        story.check_chains(task.id)

    run(test)


def test_bytes_and_trace_come_back_as_they_were_accepted(run: Run) -> None:
    async def test(story: Story) -> None:
        payload = '{"z": 1e5, "password":"x",  "ä":"\\u00e4"}'
        (task_id,) = await story.system.submit(payload=payload)
        before = await story.hash_of(task_id)
        assert await story.client.cancel(task_id) == "cancelled"
        await story.forget(task_id)
        assert await story.client.retry(task_id) == "queued"
        after = await story.hash_of(task_id)
        assert before.pop(b"l") != after.pop(b"l")
        assert after == before
        assert after[b"d"] == payload.encode()
        (claim,) = await story.system.take()
        assert (claim.task_id, claim.epoch) == (task_id, 1)

    run(test)


def test_a_forgotten_task_is_retried_with_another_payload(run: Run) -> None:
    async def test(story: Story) -> None:
        task = await story.dead()
        await story.forget(task.id)
        with pytest.raises(InvalidPayload):
            await story.client.retry(task.id, {"a": 1})
        assert await story.hash_of(task.id) == {}
        assert await story.client.retry(task.id, {"a": 5, "b": 6}) == "queued"
        assert (await story.hash_of(task.id))[b"d"] == b'{"a":5,"b":6}'
        await settle(story.broker, await story.claim(), Op.PERMANENT, "{}")

        await story.forget(task.id)  # the newest bytes are those that count
        assert await story.client.retry(task.id) == "queued"
        assert (await story.hash_of(task.id))[b"d"] == b'{"a":5,"b":6}'
        claim = await story.claim()
        assert claim.epoch == 3
        await settle(story.broker, claim)
        await story.system.carry()
        story.check_chains(task.id)

    run(test)


def test_only_one_of_many_retries_gives_a_new_life(run: Run) -> None:
    async def test(story: Story) -> None:
        task = await story.dead()
        await story.forget(task.id)
        replies = await asyncio.gather(
            *(story.client.retry(task.id) for _ in range(5)), return_exceptions=True
        )
        assert replies.count("queued") == 1
        assert all(isinstance(reply, Conflict) for reply in replies if reply != "queued")
        assert await story.broker.redis.xlen(story.keys.ready(SUMS, "normal")) == 1
        await story.check_books(idle=False)

    run(test)


async def gone(story: Story, task_id: str) -> bool:
    return not await story.hash_of(task_id)


def test_an_expired_hash_is_a_forgotten_one(run: Run) -> None:
    async def test(story: Story) -> None:
        task = await story.dead()
        await story.system.carry()
        await story.broker.redis.pexpire(story.keys.task(task.id), 1)
        await eventually(lambda: gone(story, task.id), "the hash to expire")
        assert await story.client.retry(task.id) == "queued"
        assert await story.broker.redis.ttl(story.keys.task(task.id)) == -1

    run(test)


def test_what_cannot_be_retried_is_said(run: Run) -> None:
    async def test(story: Story) -> None:
        done, dead = await story.succeeded("3"), await story.dead(unique_key="one")
        await story.forget(done.id)
        await story.forget(dead.id)
        for payload in (None, PAYLOAD):
            with pytest.raises(Conflict, match="is succeeded and cannot be retried"):
                await story.client.retry(done.id, payload)
        await story.submit(unique_key="one")
        with pytest.raises(UniqueTaken):
            await story.client.retry(dead.id)
        assert await story.hash_of(dead.id) == {}
        execute(story.system.database_url, "DELETE FROM taskq.payloads")
        with pytest.raises(PayloadNotKept, match=dead.id):
            await story.client.retry(dead.id)
        await story.check_books(idle=False)

    run(test)


def test_an_id_that_nobody_knows(run: Run) -> None:
    async def test(story: Story) -> None:
        now = story.broker.clock.now_ms()
        old, young = new_id(now - AGO_MS), new_id(now)
        await story.submit()
        for task_id in (old, young):  # the history has seen nothing yet
            with pytest.raises(HistoryBehind):
                await story.client.retry(task_id)
        await story.system.carry()
        for command in (story.client.retry, story.client.raw_result):
            with pytest.raises(NotFound):
                await command(old)
            with pytest.raises(HistoryBehind):  # it may be on its way
                await command(young)
        with pytest.raises(NotFound):
            await story.client.retry(old, PAYLOAD)
        async with story.other_client("") as without:
            for command in (without.retry, without.raw_result):
                with pytest.raises(NotFound, match="is not kept"):
                    await command(young)

    run(test)


def test_a_task_that_redis_lost_is_not_taken_for_ended(run: Run) -> None:
    async def test(story: Story) -> None:
        task = await story.submit()
        await story.system.carry()
        await story.broker.redis.delete(story.keys.task(task.id))
        for command in (story.client.retry, story.client.raw_result):
            with pytest.raises(Unavailable, match="is queued in the history, and Redis has lost it"):
                await command(task.id)
        await story.submit()  # now the history is not at the head any more
        with pytest.raises(HistoryBehind, match="is queued as far as"):
            await story.client.retry(task.id)

    run(test)


def test_postgres_away(run: Run) -> None:
    async def test(story: Story) -> None:
        task = await story.dead()
        await story.forget(task.id)
        async with story.other_client(NOWHERE) as client:
            for command in (client.retry, client.raw_result):
                with pytest.raises(Unavailable):
                    await command(task.id)
            with pytest.raises(TimeoutError, match="forgotten by Redis"):
                await client.raw_result(task.id, 0.1)
            kept = await story.dead()
            assert await client.retry(kept.id) == "queued"  # what Redis has needs no history

    run(test)


# --- the end of a task


@pytest.mark.parametrize("result", ['{"b":[1,2.5,{"c":null}],"a":"ä"}', "null", "0", '"text"', "[]", "1e5"])
def test_a_forgotten_result_is_the_same_value(run: Run, result: str) -> None:
    async def test(story: Story) -> None:
        task = await story.succeeded(result)
        await story.forget(task.id)
        assert await story.client.result(task.id, timeout=5) == msgspec.json.decode(result)

    run(test)


def test_other_forgotten_ends(run: Run) -> None:
    async def test(story: Story) -> None:
        dead = await story.dead('{"type":"ValueError","message":"no","traceback":"t","fingerprint":"f"}')
        gone = await story.submit()
        await story.client.cancel(gone.id)
        secret = await story.succeeded('{"token":"abc"}')
        for task in (dead, gone, secret):
            await story.forget(task.id)
        with pytest.raises(TaskDead, match="ValueError: no") as raised:
            await story.client.result(dead.id)
        assert raised.value.error is not None
        assert raised.value.error["traceback"] == "t"
        with pytest.raises(TaskCancelled):
            await story.client.result(gone.id)
        with pytest.raises(
            NotFound, match="only a redacted copy"
        ):  # never a value that the task did not give
            await story.client.result(secret.id)

    run(test)


def test_the_api_answers_forgotten_results(servers: RunningServers, tmp_path: Any) -> None:
    def ended(api: Api, result: str, op: Op = Op.OK) -> str:
        task_id = api.submit()
        claims = api.run(api.system.take())
        api.run(api.system.settle(claims, op, result))
        api.run(api.system.carry())
        api.run(api.system.broker.redis.delete(api.system.broker.keys.task(task_id)))
        return task_id

    with running_api(servers, tmp_path) as api:
        done, secret = ended(api, '{"ok":[1]}'), ended(api, '{"token":"abc"}')
        dead = ended(api, '{"type":"E","message":"no"}', Op.PERMANENT)
        for path in ("result", "result?wait=1"):
            answers = [api.get(f"/api/tasks/{task_id}/{path}") for task_id in (done, secret, dead)]
            assert [answer.status_code for answer in answers] == [200, 200, 200]
            told = [answer.json() for answer in answers]
            assert told[0] == {"id": done, "state": "succeeded", "result": {"ok": [1]}, "error": None}
            assert told[1]["result"] == {"token": "[redacted]"}
            assert (told[2]["state"], told[2]["error"]["message"]) == ("dead", "no")


# --- a reservation whose submit was lost


def test_a_lost_submit_is_finished_under_a_fresh_id(run: Run) -> None:
    async def test(story: Story) -> None:
        await story.dead()
        await story.system.carry()
        lost = await story.lost_reservation()
        replies = await asyncio.gather(*(story.submit_once() for _ in range(5)))
        (task_id,) = {task.id for task, _ in replies}
        assert task_id != lost
        assert [first for _, first in replies].count(True) == 1
        assert await story.broker.redis.xlen(story.keys.ready(SUMS, "normal")) == 1
        again, first = await story.submit_once()
        assert (again.id, first) == (task_id, False)
        (name,) = [key async for key in story.broker.redis.scan_iter(story.keys.prefix + "idem:*")]
        assert 0 < await story.broker.redis.ttl(name) <= 86_400
        with pytest.raises(Conflict, match=task_id):
            await story.client.submit_idempotent(
                "sums.add", {"a": 9, "b": 9}, key_id="k", idempotency_key="x"
            )

    run(test)


def test_a_lost_submit_waits_for_the_history(run: Run) -> None:
    async def test(story: Story) -> None:
        lost = await story.lost_reservation()
        await story.submit()
        with pytest.raises(HistoryBehind, match=lost):  # no relay has run
            await story.submit_once()
        async with story.other_client(NOWHERE) as away, story.other_client("") as without:
            for client in (away, without):
                with pytest.raises(HistoryBehind, match=lost):
                    await story.submit_once(client)
        await story.system.carry()
        await story.submit()  # the history lags again, but not behind the time of the id
        task, first = await story.submit_once()
        assert (task.id != lost, first) == (True, True)

    run(test)


def test_a_lost_answer_of_long_ago_is_found_in_the_history(run: Run) -> None:
    async def test(story: Story) -> None:
        lost = await story.lost_reservation()
        await story.write_event(lost)
        with pytest.raises(HistoryBehind):
            await story.submit_once()
        await story.system.carry()
        for _ in range(2):
            task, first = await story.submit_once()
            assert (task.id, task.deduplicated, first) == (lost, True, False)
        assert await story.broker.redis.xlen(story.keys.ready(SUMS, "normal")) == 0

    run(test)


def test_a_reservation_is_replaced_once(run: Run) -> None:
    async def test(story: Story) -> None:
        now = story.broker.clock.now_ms()
        await story.lost_reservation()
        order = await story.client.check("sums.add", PAYLOAD, {})
        mark = build(order, new_id(now), 0).digest
        lost = await reserve(story.broker, "k", "x", build(order, new_id(now), 0))
        ours = [Reservation(new_id(now), mark, done=False) for _ in range(10)]
        standing = await asyncio.gather(*(replace(story.broker, "k", "x", lost, one) for one in ours))
        assert len({one.id for one in standing}) == 1
        assert standing[0] in ours
        other = Reservation(new_id(now), "another", done=False)
        with pytest.raises(Conflict, match=standing[0].id):
            await replace(story.broker, "k", "x", lost, other)

    run(test)


def test_a_reservation_that_met_a_unique_key_names_the_task_that_holds_it(run: Run) -> None:
    async def test(story: Story) -> None:
        holder = await story.submit(unique_key="one")
        for _ in range(2):
            task, _ = await story.client.submit_idempotent(
                "sums.add", PAYLOAD, key_id="k", idempotency_key="x", unique_key="one"
            )
            assert task.id == holder.id

    run(test)
