"""The direct reader against real servers: what was accepted is seen, whichever store is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any

import msgspec
import psutil
import pytest

from taskq_core.audit.batch import Placed
from taskq_core.audit.session import connect
from taskq_core.audit.store import Mark, Store
from taskq_core.broker.keys import WORKERS, worker_key
from taskq_core.broker.protocol import Op
from taskq_core.clock import parse_rfc3339
from taskq_core.errors import HistoryBehind, InvalidOption, NotFound, Unavailable
from taskq_core.model.event import LiveMessage
from taskq_core.model.ids import new_id, time_ms
from taskq_core.model.lifecycle import Kind, Outcome, State
from taskq_core.read import listing, tail
from taskq_core.read.facts import TaskFacts, attempt_view, facts_of_attempt, facts_of_row, task_view
from taskq_core.read.metrics import render
from taskq_core.read.projection import Projection
from taskq_core.read.views import AttemptView, EventView, FeedBatch, TaskView
from tests.support.events import placed, walks
from tests.support.history import fresh_database
from tests.support.reading import NAME, QUEUE, System, a_system
from tests.support.servers import RunningServers, running_servers
from tests.support.wait import eventually


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServers]:
    with running_servers(tmp_path_factory.mktemp("both")) as both:
        yield both


@pytest.fixture
def run(servers: RunningServers) -> Callable[[Callable[[System], Coroutine[Any, Any, None]]], None]:
    """Run a story in an empty system."""
    url = fresh_database(servers.database_url)

    def go(story: Callable[[System], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            async with a_system(servers, url) as system:
                await story(system)

        asyncio.run(whole())

    return go


type Run = Callable[[Callable[[System], Coroutine[Any, Any, None]]], None]


def ids_of(listed: Any) -> list[str]:
    return [task.id for task in listed.tasks]


# -- one task ------------------------------------------------------------------------------------------------


def test_a_task_looks_the_same_from_redis_the_stream_and_the_history(run: Run) -> None:
    async def story(system: System) -> None:
        (task_id,) = await system.submit()
        claims = await system.take()
        await system.fail(claims)
        await system.broker.promote()
        claims = await eventually(system.take, "the second attempt")
        live = await system.reader.task(task_id)
        (folded,) = (await system.reader.tasks()).tasks
        await system.carry()
        (kept,) = (await system.reader.tasks()).tasks
        assert folded == kept
        assert kept.state == State.RUNNING
        assert (kept.attempt, kept.max_attempts) == (2, 2)
        assert kept.payload == {"source": "cat.jpg", "password": "[redacted]"}
        assert kept.metadata == {"user": 42}
        assert kept.error is not None
        assert kept.error.type == "ValueError"
        assert kept.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
        assert live == kept
        assert await system.reader.task(task_id) == kept
        await system.settle(claims)
        (ended,) = (await system.reader.tasks()).tasks
        await system.carry()
        assert await system.reader.task(task_id) == ended
        assert ended.result == {"ok": True}
        assert ended.run_s == 0.0125
        await system.broker.redis.delete(system.broker.keys.task(task_id))
        assert await system.reader.task(task_id) == ended

    run(story)


def test_attempts_and_events_join_the_history_and_the_stream(run: Run) -> None:
    async def story(system: System) -> None:
        (task_id,) = await system.submit()
        await system.fail(await system.take())
        await system.carry()
        await system.broker.promote()
        claims = await eventually(system.take, "the second attempt")
        await system.settle(claims)
        attempts = (await system.reader.attempts(task_id)).attempts
        events = (await system.reader.events(task_id)).events
        assert [one.outcome for one in attempts] == [Outcome.FAILED, Outcome.SUCCEEDED]
        assert [one.number for one in attempts] == [1, 2]
        kinds = [one.kind for one in events]
        assert kinds == ["submitted", "started", "retrying", "promoted", "started", "succeeded"]
        assert events[1].worker == "r1"
        first = await system.reader.events(task_id, limit=4)
        rest = await system.reader.events(task_id, limit=4, cursor=first.next)
        assert first.events + rest.events == events
        assert rest.next is None
        await system.carry()
        assert (await system.reader.attempts(task_id)).attempts == attempts
        assert (await system.reader.events(task_id)).events == events

    run(story)


def test_an_unknown_id_is_absent_only_when_the_history_has_passed_it(run: Run) -> None:
    async def story(system: System) -> None:
        now = time_ms((await system.broker.new_ids(1))[0])
        with pytest.raises(NotFound):
            await system.reader.task(new_id(now - 121_000))
        with pytest.raises(HistoryBehind):
            await system.reader.task(new_id(now))
        await system.submit()
        with pytest.raises(HistoryBehind):  # an event waits for the relay
            await system.reader.task(new_id(now - 121_000))
        with pytest.raises(HistoryBehind):
            await system.reader.events(new_id(now - 121_000))
        await system.carry()
        with pytest.raises(NotFound):
            await system.reader.attempts(new_id(now - 121_000))
        with pytest.raises(NotFound):
            await system.reader.task("nonsense")

    run(story)


async def commit(url: str, shard: int, events: Sequence[Placed]) -> None:
    """Put events into the history, as the relay does."""
    if events:
        last = events[-1]
        async with connect(url) as connection:
            store = Store(connection, shard)
            await store.prepare()
            await store.commit(events, Mark(*last.place[:3], last.n, last.at))


async def kept_tasks(system: System, ids: Iterable[str]) -> list[TaskFacts]:
    wanted = sorted(ids)
    rows = await system.reader._sources.past("tasks_by_id", lambda history: history.tasks_by_id(wanted))
    return [facts_of_row(row) for row in rows]


async def kept_attempts(system: System, task_id: str) -> list[AttemptView]:
    runs = await system.reader._sources.past("attempts", lambda history: history.attempts(task_id))
    return [attempt_view(facts_of_attempt(run)) for run in runs]


def views(tasks: Iterable[TaskFacts]) -> dict[str, TaskView]:
    return {task.id: task_view(task) for task in tasks}


def test_the_fold_of_events_is_what_the_history_keeps(run: Run) -> None:
    async def story(system: System) -> None:
        chance = random.Random(7)
        for shard in range(100, 125):
            _, entries = walks(
                [[chance.randrange(60) for _ in range(chance.randint(1, 15))] for _ in range(3)]
            )
            events = [
                one
                for ms, seq, packed in entries
                for one in tail.place_batch(shard, 1, f"{ms}-{seq}", packed or b"")
            ]
            ids = {one.event.task_id for one in events}
            whole, joined = Projection(), Projection()
            whole.apply_all(events)
            assert not whole.illegal
            cut = chance.randrange(len(events) + 1)
            await commit(system.database_url, shard, placed(entries)[:cut])
            joined.seed(await kept_tasks(system, ids))  # the history's beginning, then all events once more
            joined.apply_all(events)
            await commit(system.database_url, shard, placed(entries)[cut:])
            kept = views(await kept_tasks(system, ids))
            assert views(whole.tasks.values()) == kept
            assert views(joined.tasks.values()) == kept
            for task_id in ids:
                runs = [attempt for (one, _), attempt in sorted(whole.attempts.items()) if one == task_id]
                assert [attempt_view(one) for one in runs] == await kept_attempts(system, task_id)

    run(story)


# -- lists ---------------------------------------------------------------------------------------------------


def test_a_list_shows_a_task_before_the_relay_ran(run: Run) -> None:
    async def story(system: System) -> None:
        old = await system.submit(3)
        await system.carry()
        new = await system.submit(2)
        await system.take(1)
        listed = await system.reader.tasks()
        assert sorted(ids_of(listed)) == sorted(old + new)
        assert ids_of(listed) == sorted(ids_of(listed), reverse=True)
        assert len(ids_of(await system.reader.tasks(state="running"))) == 1
        assert len(ids_of(await system.reader.tasks(state="queued"))) == 4
        assert ids_of(await system.reader.tasks(queue="web")) == []
        assert len(ids_of(await system.reader.tasks(name=NAME, queue=QUEUE))) == 5
        position = tail.format_position(await tail.read_head(system.broker.redis, system.broker.keys), 0)
        assert listed.as_of == position

    run(story)


def test_pages_neither_skip_nor_repeat_while_tasks_arrive(run: Run) -> None:
    async def story(system: System) -> None:
        first = set(await system.submit(40))
        async with system.relay():
            seen: list[str] = []
            cursor: str | None = None
            while True:
                page = await system.reader.tasks(limit=7, cursor=cursor)
                seen += ids_of(page)
                await system.submit(5)
                await system.settle(await system.take(3))
                if page.next is None:
                    break
                cursor = page.next
        assert len(seen) == len(set(seen))
        assert set(seen) == first

    run(story)


def test_a_list_beyond_the_bound_tells_how_far_it_goes(run: Run) -> None:
    async def story(system: System) -> None:
        old = await system.submit(2)
        await system.carry()
        new = [(await system.submit())[0] for _ in range(60)]
        system.reader._sources.most_events = 10
        listed = await system.reader.tasks(limit=500)
        shown = set(ids_of(listed))
        assert set(old) < shown < {*old, *new}
        last = (await system.reader.events(new[len(shown) - 3])).events[-1]
        assert last.id.startswith(f"{listed.as_of}-")
        assert (await system.reader.task(new[-1])).state == State.QUEUED

    run(story)


def test_bounds_and_unknown_words_are_refused(run: Run) -> None:
    async def story(system: System) -> None:
        for asked in (
            system.reader.tasks(limit=0),
            system.reader.tasks(limit=501),
            system.reader.tasks(state="failed"),
            system.reader.tasks(cursor="x"),
            system.reader.tasks(at="2026-01-01T00:00:00Z"),
            system.reader.overview(at="2026-01-01T00:00:00Z"),
        ):
            with pytest.raises(InvalidOption):
                await asked
        with pytest.raises(InvalidOption):
            system.reader.follow(after="x")

    run(story)


def test_all_events_go_back_from_the_stream_into_the_history(run: Run) -> None:
    async def story(system: System) -> None:
        await system.submit(5)
        await system.settle(await system.take(3))
        await system.carry()
        newest = (await system.reader.events(limit=500)).events
        assert len(newest) == 11
        await system.broker.redis.xtrim(system.broker.keys.events, maxlen=1, approximate=False)
        seen: list[EventView] = []
        cursor: str | None = None
        while True:
            page = await system.reader.events(limit=2, cursor=cursor)
            seen += page.events
            if page.next is None:
                break
            cursor = page.next
        assert seen == newest

    run(story)


# -- a store is away -----------------------------------------------------------------------------------------


@contextmanager
def frozen(servers: RunningServers) -> Generator[None]:
    """Every process of PostgreSQL stopped: connections stand, nothing is answered."""
    server = psutil.Process(servers.postgres.pid)
    everyone = [server, *server.children(recursive=True)]
    for process in everyone:
        process.suspend()
    try:
        yield
    finally:
        for process in everyone:
            with suppress(psutil.NoSuchProcess):  # a backend that was told to end
                process.resume()


@pytest.mark.slow
def test_without_postgres_redis_answers_as_far_as_it_reaches(run: Run, servers: RunningServers) -> None:
    async def story(system: System) -> None:
        old = await system.submit(2)
        await system.settle(await system.take(2))
        await system.carry()
        (new,) = await system.submit()
        servers.postgres.kill()
        try:
            await quickly(system.reader.task(new), State.QUEUED)
            assert sorted(ids_of(await system.reader.tasks())) == sorted([*old, new])
            assert [one.kind for one in (await system.reader.events(new)).events] == ["submitted"]
            assert (await system.reader.attempts(old[0])).attempts[0].outcome == Outcome.SUCCEEDED
            assert (await system.reader.overview()).verdict.level == "degraded"
            await lose_the_stream(system)
            await refused(system.reader.tasks())
            await refused(system.reader.events(old[0]))
            await quickly(system.reader.task(old[0]), State.SUCCEEDED)
            await system.broker.redis.delete(system.broker.keys.task(old[0]))
            await refused(system.reader.task(old[0]))
        finally:
            await servers.postgres.restart_async()

        async def found() -> bool:
            try:
                return (await system.reader.task(old[0])).state == State.SUCCEEDED
            except Unavailable:
                return False

        await eventually(found, "the history to be back", timeout=20)

    run(story)


@pytest.mark.slow
def test_a_frozen_postgres_is_said_within_two_seconds(run: Run, servers: RunningServers) -> None:
    async def story(system: System) -> None:
        old = await system.submit(2)
        await system.settle(await system.take(2))
        await system.carry()
        await lose_the_stream(system)
        with frozen(servers):
            await refused(system.reader.tasks())
            await quickly(system.reader.task(old[0]), State.SUCCEEDED)
            await system.broker.redis.delete(system.broker.keys.task(old[0]))
            await refused(system.reader.task(old[0]))
            assert (await system.reader.overview()).verdict.level == "degraded"

    run(story)


async def lose_the_stream(system: System) -> None:
    await system.submit(3, queue="web")
    await system.broker.redis.xtrim(system.broker.keys.events, maxlen=1, approximate=False)


async def quickly(asked: Awaitable[TaskView], state: State) -> None:
    async with asyncio.timeout(2):
        assert (await asked).state == state


async def refused(asked: Awaitable[object]) -> None:
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable):
            await asked


@pytest.mark.slow
def test_without_redis_the_history_answers(run: Run, servers: RunningServers) -> None:
    async def story(system: System) -> None:
        ids = await system.submit(3)
        await system.carry()
        servers.redis.pause()
        try:
            assert sorted(ids_of(await system.reader.tasks())) == sorted(ids)
            assert (await system.reader.task(ids[0])).state == State.QUEUED
            assert (await system.reader.overview()).verdict.level == "down"
            assert len((await system.reader.events(ids[0])).events) == 1
            with pytest.raises(Unavailable):
                await system.reader.queues()
            snapshot = await system.reader.metrics()
            assert "taskq_ledger_unexplained" in render(snapshot.families)
        finally:
            servers.redis.resume()

    run(story)


# -- the system ----------------------------------------------------------------------------------------------


def test_the_ledger_explains_every_task_under_load(run: Run) -> None:
    async def story(system: System) -> None:
        busy = True

        async def submitting() -> None:
            while busy:
                await system.submit(20)
                await system.submit(3, delay_ms=30)

        async def working(owner: str) -> None:
            turn = 0
            while busy:
                claims = await system.take(15, owner=owner)
                turn += 1
                for at, claim in enumerate(claims):
                    ops = (Op.OK, Op.FAIL, Op.RELEASE, Op.PARK, Op.OK)
                    await system.settle([claim], ops[(at + turn) % 5], "null", owner)
                await system.broker.promote()
                await system.broker.unpark([NAME], [QUEUE], 0)

        workers = [asyncio.create_task(one) for one in (submitting(), working("a"), working("b"))]
        for _ in range(60):
            ledger = (await system.reader.overview()).ledger
            assert ledger.unexplained == 0
        busy = False
        await asyncio.gather(*workers)
        ledger = (await system.reader.overview()).ledger
        assert ledger.accepted
        assert ledger.ended
        assert ledger.unexplained == 0

    run(story)


def test_queues_tell_where_their_tasks_are(run: Run) -> None:
    async def story(system: System) -> None:
        await system.submit(4)
        await system.submit(2, delay_ms=60_000)
        await system.submit(1, queue="web")
        claims = await system.take(3)
        await system.settle(claims[:1], Op.RELEASE)
        await system.settle(claims[1:2], Op.PARK)
        overview = await system.reader.overview()
        images, web = overview.queues
        assert (images.name, web.name) == ("images", "web")
        assert images.depth == {
            "scheduled": 2,
            "queued": 2,
            "running": 1,
            "retrying": 0,
            "parked": 1,
            "dead": 0,
        }
        assert images.oldest_s is not None
        entry = claims[0].entry.split("-")[0]
        at = parse_rfc3339((await system.reader.events()).events[0].at)
        assert images.oldest_s * 1000 >= at - int(entry)  # what was given back is the oldest
        assert web.depth["queued"] == 1
        assert overview.rates.rate_in
        assert overview.relay.backlog
        assert overview.verdict.level == "degraded"  # nobody works
        assert [queue.name for queue in (await system.reader.queues()).queues] == ["images", "web"]
        await system.fail(claims[2:])
        depth = (await system.reader.queues()).queues[0].depth
        assert (depth["running"], depth["retrying"]) == (0, 1)
        await system.carry()
        relay = (await system.reader.overview()).relay
        assert (relay.backlog, relay.lag_s) == (0, 0.0)

    run(story)


def test_the_split_by_queue_is_estimated_beyond_the_sample(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(system: System) -> None:
        monkeypatch.setattr("taskq_core.broker.overview.SAMPLE", 20)
        await system.submit(60, delay_ms=60_000)
        await system.submit(40, queue="web", delay_ms=60_000)
        depths = {one.name: one.depth for one in (await system.reader.queues()).queues}
        assert depths["images"]["scheduled"] == 60
        assert depths["web"]["scheduled"] == 40

    run(story)


def test_workers_are_shown_until_they_fall_silent(run: Run) -> None:
    async def story(system: System) -> None:
        redis = system.broker.redis
        now = time_ms((await system.broker.new_ids(1))[0])
        told = {
            "id": "w1",
            "host": "h",
            "pid": 7,
            "started_at": now - 5000,
            "seen_at": now,
            "queues": [QUEUE],
        }
        told |= {"slots": 4, "busy": 1, "runners": [{"pid": 8, "rss": 1024, "tasks": 1}], "state": "running"}
        for name, seen in (("w1", now), ("w2", now - 60_000)):
            text = msgspec.json.encode(told | {"id": name, "seen_at": seen})
            await redis.hset(worker_key(name), "v", text)
            await redis.zadd(WORKERS, {name: seen})
        await system.submit()
        overview = await system.reader.overview()
        assert [(one.id, one.state) for one in overview.workers] == [("w1", "running"), ("w2", "lost")]
        assert overview.queues[0].workers == 1
        assert overview.workers[0].runners[0].rss == 1024
        assert (await system.reader.workers()).workers == overview.workers
        text = render((await system.reader.metrics()).families)
        assert "taskq_workers 1\n" in text
        assert "taskq_worker_busy_slots 1\n" in text
        assert f'taskq_tasks_submitted_total{{queue="{QUEUE}",name="{NAME}"}} 1\n' in text

    run(story)


# -- follow --------------------------------------------------------------------------------------------------


class Follower:
    """Collects what a feed yields."""

    def __init__(self, feed: AsyncGenerator[FeedBatch]) -> None:
        self.feed = feed
        self.events: list[EventView] = []
        self.missed = 0
        self.cursor = ""

    async def until(self, count: int) -> None:
        while len(self.events) < count:
            async with asyncio.timeout(10):
                batch = await anext(self.feed)
            self.events += batch.events
            self.missed += batch.missed
            self.cursor = batch.cursor


@asynccontextmanager
async def following(system: System, after: str | None = None) -> AsyncGenerator[Follower]:
    async with aclosing(system.reader.follow(after=after)) as feed:
        follower = Follower(feed)
        follower.cursor = (await anext(feed)).cursor
        yield follower


def test_follow_tells_every_event_once_and_in_order(run: Run) -> None:
    async def story(system: System) -> None:
        await system.submit(2)
        async with following(system) as follower:
            (task_id,) = await system.submit()
            await system.settle(await system.take(3))
            await follower.until(7)
            assert [one.kind for one in follower.events[:1]] == [Kind.SUBMITTED]
            assert follower.events[0].task_id == task_id
            assert len({one.id for one in follower.events}) == 7
            assert follower.missed == 0
            heartbeat = await anext(follower.feed)
            assert heartbeat.events == []

    run(story)


def test_follow_refills_what_publishing_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(system: System) -> None:
        heard = 0

        async def lossy() -> AsyncGenerator[LiveMessage]:
            nonlocal heard
            async for message in live():
                heard += 1
                if heard % 3 == 1:
                    yield message

        live = system.broker.live
        monkeypatch.setattr(system.broker, "live", lossy)
        async with following(system) as follower:
            for _ in range(30):
                await system.submit(2)
            await follower.until(60)
            everything = (await system.reader.events(limit=500)).events
            assert follower.events == everything[::-1]
            assert follower.missed == 0

    run(story)


def test_follow_refills_large_batches_and_without_any_message(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(system: System) -> None:
        async def deaf() -> AsyncGenerator[LiveMessage]:
            await asyncio.Event().wait()
            yield LiveMessage(0, 0, "", b"")

        async with following(system) as follower:
            await system.submit(200, payload='{"text":"' + "x" * 1000 + '"}')
            await follower.until(200)
        monkeypatch.setattr(system.broker, "live", deaf)
        async with following(system, follower.cursor) as again:
            await system.submit(5)
            await again.until(5)
            assert again.missed == 0

    run(story)


def test_follow_resumes_from_the_history_where_the_stream_was_trimmed(run: Run) -> None:
    async def story(system: System) -> None:
        async with following(system) as follower:
            await system.submit(3)
            await follower.until(3)
        for _ in range(5):
            await system.submit(4)
        await system.carry()
        keys = system.broker.keys
        await system.broker.redis.xtrim(keys.events, maxlen=2, approximate=False)
        async with following(system, follower.cursor) as again:
            await again.until(20)
            assert again.missed == 0
            everything = (await system.reader.events(limit=500)).events[::-1]
            assert follower.events + again.events == everything

    run(story)


def test_follow_tells_a_gap_that_nobody_can_fill(run: Run) -> None:
    async def story(system: System) -> None:
        async with following(system) as follower:
            await system.submit(1)
            await follower.until(1)
        await system.submit(4)
        await system.submit(2)
        await system.broker.redis.xtrim(system.broker.keys.events, maxlen=1, approximate=False)
        async with following(system, follower.cursor) as again:
            await again.until(2)
            assert again.missed == 4

    run(story)


def test_follow_survives_a_restart_of_redis(run: Run, servers: RunningServers) -> None:
    async def story(system: System) -> None:
        async with following(system) as follower:
            await system.submit(1)
            await follower.until(1)
            await servers.redis.restart_async()

            async def back() -> bool:
                return (await system.reader.overview()).verdict.level != "down"

            await eventually(back, "Redis to be back")
            await system.submit(2)
            await follower.until(3)
            assert follower.missed == 0

    run(story)


def test_progress_is_heard_at_once_and_is_no_event(run: Run) -> None:
    async def story(system: System) -> None:
        (task_id,) = await system.submit()
        (claim,) = await system.take()
        await system.broker.progress("r1", task_id, claim.epoch, 0.25, "begun")
        async with following(system) as follower:
            told: dict[str, Any] = {}
            while task_id not in told:
                await system.broker.progress("r1", task_id, claim.epoch, 0.5, "half")
                told |= (await anext(follower.feed)).progress
            assert told[task_id].message == "half"
            shown = (await system.reader.task(task_id)).progress
            assert shown is not None
            assert shown.fraction == 0.5

    run(story)


def test_the_page_of_rows_is_read_on_while_the_tail_hides_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(system: System) -> None:
        monkeypatch.setattr(listing, "_PAGE", 3)
        ids = await system.submit(10)
        await system.carry()
        taken = {claim.task_id for claim in await system.take(8)}
        left = sorted((task_id for task_id in ids if task_id not in taken), reverse=True)
        assert ids_of(await system.reader.tasks(state="queued", limit=2)) == left

    run(story)
