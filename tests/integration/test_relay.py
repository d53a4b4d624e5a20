"""The relay against real servers: order, repetition, poison, crashes, rivals."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
import redis.asyncio as aioredis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskq_core.audit.batch import Placed
from taskq_core.audit.history import History, open_pool
from taskq_core.audit.migrate import migrate
from taskq_core.audit.relay import Relay
from taskq_core.audit.session import connect
from taskq_core.audit.source import Entry
from taskq_core.audit.store import Mark, Store
from taskq_core.broker.keys import AUDIT_GROUP, ShardKeys
from taskq_core.broker.stream import StreamSource
from taskq_core.embedded import find_postgres
from taskq_core.errors import Unavailable
from taskq_core.model.event import Detail, Event
from taskq_core.model.ids import new_id
from taskq_core.model.lifecycle import Kind
from tests.support.events import OPTIONS, PAYLOAD, START_MS, entry, one_life, placed, submitted, walks
from tests.support.history import ListSource, carry, execute, fresh_database, rows, running
from tests.support.servers import RunningServers, ServerHandle, running_servers, start_postgres
from tests.support.wait import eventually

CHOICES = st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=15), min_size=1, max_size=3)


@pytest.fixture(scope="module", params=["embedded", "postgres"])
def postgres(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerHandle]:
    program = find_postgres().path if request.param == "embedded" else "postgres"
    handle = start_postgres(tmp_path_factory.mktemp("pg"), program=program)
    yield handle
    handle.stop()


@pytest.fixture
def database(postgres: ServerHandle) -> str:
    url = fresh_database(postgres.url)
    asyncio.run(migrate(url))
    return url


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServers]:
    with running_servers(tmp_path_factory.mktemp("both")) as both:
        yield both


# -- rows -------------------------------------------------------------------------------------------------

TASK_COLUMNS = (
    "SELECT t.*, a.runs, p.raw, p.digest AS body_digest, p.options FROM taskq.tasks t"
    " LEFT JOIN taskq.payloads p ON p.task_id = t.id"
    " LEFT JOIN LATERAL (SELECT jsonb_agg(to_jsonb(x) - 'task_id' ORDER BY x.epoch) AS runs"
    " FROM taskq.attempts x WHERE x.task_id = t.id) a ON true WHERE t.shard = %s ORDER BY t.id"
)


def amounts(url: str, shard: int) -> list[dict[str, Any]]:
    """What the history says of a shard's tasks, without what differs between two shards."""
    found = rows(url, TASK_COLUMNS, shard)
    for row in found:
        del row["id"], row["shard"]
    return found


async def write(url: str, shard: int, parts: Sequence[Sequence[Placed]]) -> None:
    async with connect(url) as connection:
        store = Store(connection, shard)
        await store.prepare()
        for part in parts:
            last = max(one.place for one in part)
            await store.commit(part, Mark(last[0], last[1], last[2], part[-1].n, part[-1].at))


def pieces(events: list[Placed], chance: random.Random) -> list[list[Placed]]:
    """Shuffled, cut, and some of it twice."""
    chance.shuffle(events)
    cuts = sorted(chance.randrange(len(events) + 1) for _ in range(3))
    parts = [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    return [part for part in [*parts, *parts[:2]] if part]


def test_any_order_in_any_pieces_gives_the_same_rows(database: str) -> None:
    shards = iter(range(0, 30_000, 2))

    @settings(
        max_examples=15,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(CHOICES, st.randoms(use_true_random=False))
    def check(choices: list[list[int]], chance: random.Random) -> None:
        straight, mixed = (shard := next(shards)), shard + 1
        tasks, entries = walks(choices)
        ids = dict(zip((t.id for t in tasks), sorted(t.id for t in tasks), strict=True))
        twins = {old: new_id(START_MS + 1 + at) for at, old in enumerate(sorted(ids))}
        events = placed(entries)
        asyncio.run(write(database, straight, [events]))
        renamed = [_rename(one, twins) for one in events]
        asyncio.run(write(database, mixed, pieces(renamed, chance)))
        assert amounts(database, mixed) == amounts(database, straight)

    check()


def _rename(one: Placed, twins: dict[str, str]) -> Placed:
    event = one.event
    other = Event(event.kind, twins[event.task_id], event.attempt, event.epoch, event.detail)
    return Placed(one.place, one.order, one.n, one.at, one.worker, one.digest, other)


def test_a_replay_changes_nothing(database: str) -> None:
    _, entries = walks([[4, 9, 30, 7, 12, 3, 44], [1, 2, 3, 4, 5, 6]])
    first = asyncio.run(carry(database, ListSource(entries)))
    before = amounts(database, 0)
    again = asyncio.run(carry(database, ListSource(entries)))
    assert amounts(database, 0) == before
    assert (again.stats.committed, again.stats.replayed) == (0, first.stats.committed)
    assert again.stats.differing == 0


def test_the_same_place_with_another_content_alarms(database: str, caplog: pytest.LogCaptureFixture) -> None:
    task_id = new_id(START_MS)
    asyncio.run(carry(database, ListSource([entry(START_MS, 0, 1, [submitted(task_id)])])))
    forged = ListSource([entry(START_MS, 0, 1, [submitted(task_id, queue="other")])])
    relay = asyncio.run(carry(database, forged))
    assert relay.stats.differing == 1
    assert "another content" in caplog.text
    assert rows(database, "SELECT queue FROM taskq.tasks") == [{"queue": "images"}]


def test_what_the_history_answers(database: str) -> None:
    task_id = new_id(START_MS)
    act = Event(
        Kind.ACTION,
        "",
        0,
        0,
        Detail(action="mark_release", arguments='{"name": "r7"}', actor="me", reason="x"),
    )
    source = ListSource([*one_life(task_id, START_MS, 1), entry(START_MS + 9, 0, 4, [act])])
    asyncio.run(carry(database, source))
    assert source.forgotten == [(task_id, START_MS + 2)]

    async def story() -> None:
        pool = await open_pool(database)
        history = History(pool)
        task = await history.task(task_id)
        assert task is not None
        assert (task.state, task.payload["source"], task.result) == ("succeeded", "cat.jpg", {"ok": True})
        assert (task.submitted_at, task.started_at, task.ended_at) == (START_MS, START_MS + 1, START_MS + 2)
        assert (task.wait_s, task.run_s, task.epoch) == (0.005, 0.0125, 1)
        assert await history.tasks(states=["succeeded"], queues=["images"], names=["image.resize"]) == [task]
        assert await history.tasks(states=["succeeded", "dead"], before=new_id(START_MS + 1)) == [task]
        assert await history.tasks(states=["dead"]) == []
        assert await history.tasks(before=task_id) == []
        kinds = [event.kind for event in await history.events(task_id)]
        assert kinds == ["submitted", "started", "succeeded"]
        assert (await history.events(task_id))[0].actor == "key:1"
        assert [event.n for event in await history.events_after(1)] == [2, 3, 4]
        assert [event.n for event in await history.newest_events(limit=2)] == [4, 3]
        (run,) = await history.attempts(task_id)
        assert (run.outcome, run.number, run.cpu_s, run.peak_rss) == ("succeeded", 1, 0.003, 1000)
        kept = await history.payload(task_id)
        assert kept is not None
        assert (kept.raw.decode(), kept.options, kept.metadata) == (PAYLOAD, OPTIONS, '{"user": 42}')
        (action,) = await history.actions()
        assert (action.action, action.arguments) == ("mark_release", {"name": "r7"})
        assert await history.counts() == {"succeeded": 1}
        position = await history.position()
        assert position is not None
        assert (position.n, position.ms, position.incarnation) == (4, START_MS + 9, 1)
        await pool.close()

    asyncio.run(story())
    assert rows(database, "SELECT name, kind FROM taskq.marks") == [{"name": "r7", "kind": "release"}]


@pytest.mark.slow
def test_a_history_that_is_away_or_slow_says_so(database: str) -> None:
    async def story() -> None:
        away = await open_pool("postgresql://nobody@127.0.0.1:1/none")
        with pytest.raises(Unavailable):
            await History(away).task(new_id(START_MS))
        await away.close()
        pool = await open_pool(database)
        async with await psycopg.AsyncConnection.connect(database) as blocker:
            await blocker.execute("LOCK TABLE taskq.tasks")
            with pytest.raises(Unavailable):
                await asyncio.wait_for(History(pool).tasks(), 2)
        await pool.close()

    asyncio.run(story())


def test_a_frozen_backend_is_not_waited_for(database: str) -> None:
    async def story() -> None:
        pool = await open_pool(database, max_size=1)
        history = History(pool)
        assert await history.positions() == []
        (backend,) = rows(
            database,
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
            "taskq reader",
        )
        os.kill(backend["pid"], signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable):
                await asyncio.wait_for(history.tasks(), 2)
        finally:
            os.kill(backend["pid"], signal.SIGCONT)
        await eventually(lambda: answers(history), "the history to be back")
        await pool.close()

    asyncio.run(story())


async def answers(history: History) -> bool:
    try:
        await history.tasks()
    except Unavailable:
        return False
    return True


def test_secrets_stay_in_the_raw_bytes(database: str) -> None:
    task_id = new_id(START_MS)
    payload = '{"password": "hunter2", "url": "https://ann:hunter2@host/"}'
    error = '{"type": "E", "message": "cannot reach https://ann:hunter2@host/"}'
    events = [
        submitted(task_id, payload=payload),
        Event(Kind.STARTED, task_id, 1, 1, Detail(wait_ms=1)),
        Event(Kind.DEAD, task_id, 1, 1, Detail(outcome="failed", error=error, run_ms=1)),
    ]
    asyncio.run(carry(database, ListSource([entry(START_MS, 0, 1, events)])))
    for table in ("tasks", "events", "attempts"):
        (row,) = rows(database, f"SELECT jsonb_agg(to_jsonb(t))::text AS text FROM taskq.{table} t")
        assert "hunter2" not in row["text"]
    assert rows(database, "SELECT raw FROM taskq.payloads") == [{"raw": payload.encode()}]


# -- poison -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    ['{"a": "\\u0000"}', '"\\ud800"', "1e400000", "[" * 20_000 + "]" * 20_000, "not json", "NaN"],
    ids=["nul", "lone surrogate", "huge number", "depth", "no json", "nan"],
)
def test_one_event_that_postgres_rejects(database: str, result: str) -> None:
    bad = new_id(START_MS)
    good = [new_id(START_MS) for _ in range(20)]
    together: list[Event] = []
    for task_id in [*good[:9], bad, *good[9:]]:
        for packed in one_life(task_id, START_MS, 1, result=result if task_id == bad else "1"):
            together += [one.event for one in placed([packed])]
    source = ListSource([entry(START_MS, 0, 1, together)])
    relay = asyncio.run(carry(database, source))
    assert relay.stats.quarantined == 1
    assert relay.stats.committed == len(together) - 1
    states = rows(database, "SELECT id::text, state FROM taskq.tasks")
    assert {row["id"]: row["state"] for row in states} == dict.fromkeys(good, "succeeded") | {bad: "running"}
    (kept,) = rows(database, "SELECT idx, n, raw, reason FROM taskq.quarantine")
    assert (kept["idx"], kept["n"]) == (29, 30)
    assert bad.encode() in kept["raw"]
    assert kept["reason"]
    assert bad not in dict(source.forgotten)


def test_entries_that_are_no_batches(database: str) -> None:
    life = one_life(new_id(START_MS), START_MS, 1)
    source = ListSource(
        [(START_MS - 1, 0, b"junk"), *life, (START_MS + 7, 0, None), (START_MS + 8, 0, b"\xff")]
    )
    relay = asyncio.run(carry(database, source))
    assert (relay.stats.committed, relay.stats.quarantined) == (3, 3)
    kept = rows(database, "SELECT ms, idx, raw FROM taskq.quarantine ORDER BY ms")
    assert [(row["ms"] - START_MS, row["idx"], row["raw"]) for row in kept] == [
        (-1, -1, b"junk"),
        (7, -1, b""),
        (8, -1, b"\xff"),
    ]
    (position,) = rows(database, "SELECT ms, n FROM taskq.relay_position")
    assert position == {"ms": START_MS + 8, "n": 3}


def test_an_id_that_is_none(database: str) -> None:
    good = new_id(START_MS)
    forged = ["no-id", good.upper(), good.replace("-", ""), " " + good[1:]]
    source = ListSource([entry(START_MS, 0, 1, [submitted(one) for one in [*forged, good]])])
    relay = asyncio.run(carry(database, source))
    assert (relay.stats.committed, relay.stats.quarantined) == (1, 4)


# -- crashes ----------------------------------------------------------------------------------------------


def test_killed_between_commit_and_acknowledgement(database: str) -> None:
    source = ListSource(one_life(new_id(START_MS), START_MS, 1))
    source.fail_ack = 2
    relay = asyncio.run(carry(database, source))
    assert (relay.stats.committed, relay.stats.replayed) == (3, 3 + 1)  # pending comes an entry a page
    assert len(source.forgotten) >= 2  # again with the replay: a crash must not leave a task unforgotten
    assert rows(database, "SELECT count(*) AS n FROM taskq.events") == [{"n": 3}]
    assert rows(database, "SELECT state FROM taskq.tasks") == [{"state": "succeeded"}]


@pytest.mark.slow
def test_postgres_is_killed_and_comes_back(postgres: ServerHandle, database: str) -> None:
    source = ListSource(one_life(new_id(START_MS), START_MS, 1))

    async def story() -> None:
        async with running(Relay(source, database)) as relay:
            await eventually(source.is_drained, "the first life")
            postgres.kill()
            source.add(one_life(new_id(START_MS), START_MS + 10, 4))
            await eventually(lambda: relay.stats.state == "waiting", "the relay to notice")
            figures = (3, pytest.approx(60 - 0.010))  # the source's clock stands a minute after START_MS
            await eventually(
                lambda: (relay.stats.backlog, relay.stats.lag_s) == figures, "the backlog to grow"
            )
            assert len(source.unacked) in {0, 3}
            await postgres.restart_async()
            await eventually(source.is_drained, "the second life", timeout=30)
        assert relay.stats.committed == 6

    asyncio.run(story())
    assert rows(database, "SELECT count(*) AS n FROM taskq.tasks WHERE state = 'succeeded'") == [{"n": 2}]


def test_a_locked_table_is_waited_for(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskq_core.audit.session.LOCK_MS", 100)
    source = ListSource(one_life(new_id(START_MS), START_MS, 1))

    async def story() -> None:
        async with await psycopg.AsyncConnection.connect(database) as blocker:
            await blocker.execute("LOCK TABLE taskq.tasks")
            async with running(Relay(source, database)) as relay:
                await eventually(lambda: "LockNotAvailable" in relay.stats.trouble, "the lock timeout")
                assert not source.is_drained()
                await blocker.rollback()
                await eventually(source.is_drained, "the lock to be gone")

    asyncio.run(story())


def test_a_second_relay_stands_by_and_takes_over(database: str) -> None:
    source = ListSource(one_life(new_id(START_MS), START_MS, 1))

    async def story() -> None:
        first, second = Relay(source, database), Relay(source, database)
        async with running(second):
            async with running(first):
                await eventually(
                    lambda: {first.stats.state, second.stats.state} == {"running", "standby"}, "roles"
                )
                await eventually(source.is_drained, "one of them to work")
                worker, rival = (first, second) if first.stats.state == "running" else (second, first)
                assert rival.stats.batches == 0
                execute(
                    database,
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
                )
                source.add(one_life(new_id(START_MS), START_MS + 10, 4))
                await eventually(source.is_drained, "somebody to carry on", timeout=15)
                assert worker.stats.committed + rival.stats.committed == 6
            await eventually(lambda: second.stats.state == "running", "the other to take over")

    asyncio.run(story())


def test_a_source_that_lost_its_end_begins_anew(database: str) -> None:
    life = one_life(new_id(START_MS), START_MS, 1)
    asyncio.run(carry(database, ListSource(life)))
    behind = ListSource(life[:1])
    asyncio.run(carry(database, behind))
    assert behind.number == 2
    other = ListSource([entry(START_MS + 2, 0, 1, [submitted(new_id(START_MS))])])
    asyncio.run(carry(database, other))
    assert other.number == 3
    found = rows(database, "SELECT incarnation, count(*) AS n FROM taskq.events GROUP BY 1 ORDER BY 1")
    assert [(row["incarnation"], row["n"]) for row in found] == [(1, 3), (2, 1), (3, 1)]


def test_it_stops_within_a_second(database: str) -> None:
    async def story() -> None:
        stop = asyncio.Event()
        relay = Relay(ListSource(), database)
        task = asyncio.create_task(relay.run(stop))
        await eventually(lambda: relay.stats.state == "running", "the relay to run")
        stop.set()
        await asyncio.wait_for(task, 1.2)
        assert relay.stats.state == "stopped"

    asyncio.run(story())


# -- the real stream --------------------------------------------------------------------------------------


class Plain:
    """What StreamSource needs of a broker, without the function library."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys = ShardKeys()
        self.forgotten: list[tuple[str, int]] = []

    async def forget(self, ended: Sequence[tuple[str, int]]) -> int:
        self.forgotten += ended
        return len(ended)

    async def trim(self) -> int:
        return 0


@asynccontextmanager
async def stream(url: str) -> AsyncGenerator[tuple[StreamSource, aioredis.Redis]]:
    client = aioredis.Redis.from_url(url)
    await client.flushall()
    source = StreamSource(Plain(url))
    try:
        yield source, client
    finally:
        await source.close()
        await client.aclose()


async def add(client: aioredis.Redis, entries: Sequence[Entry]) -> None:
    for _, _, packed in entries:
        await client.xadd(ShardKeys().events, {"e": packed or b""})
        await client.hincrby(ShardKeys().meta, "n", 1)


def test_the_stream_is_read_acknowledged_and_read_again(servers: RunningServers) -> None:
    async def story() -> None:
        async with stream(servers.redis_url) as (source, client):
            assert await source.incarnation() == 1
            life = one_life(new_id(START_MS), START_MS, 1)
            await add(client, life)
            read = await source.fresh(1.0, 1 << 20)
            assert [packed for _, _, packed in read] == [packed for _, _, packed in life]
            assert await source.fresh(0.01, 1 << 20) == []
            assert await source.pending((0, 0), 1 << 20) == read
            await source.ack([(ms, seq) for ms, seq, _ in read[:2]])
            assert await source.pending((0, 0), 1 << 20) == read[2:]
            n, now = await source.head()
            assert n == 3
            assert abs(now - read[0][0]) < 60_000
            assert await source.next_ms(read[0][:2]) == read[1][0]
            assert await source.next_ms(read[2][:2]) is None
            await client.xdel(ShardKeys().events, f"{read[2][0]}-{read[2][1]}")
            assert await source.pending((0, 0), 1 << 20) == [(*read[2][:2], None)]
            assert await source.end() == read[2][:2]
            await source.raise_incarnation(5)
            assert await source.incarnation() == 5

    asyncio.run(story())


def test_a_read_is_bounded_in_bytes(servers: RunningServers) -> None:
    async def story() -> None:
        async with stream(servers.redis_url) as (source, client):
            await source.incarnation()
            for _ in range(40):
                await client.xadd(ShardKeys().events, {"e": b"x" * 100_000})
            sizes: list[int] = []
            while read := await source.fresh(0.01, 1_000_000):
                sizes.append(sum(len(packed or b"") for _, _, packed in read))
            assert sum(sizes) == 4_000_000
            assert max(sizes[1:]) <= 1_100_000
            assert max(sizes) <= 4_000_000

    asyncio.run(story())


def test_from_redis_to_postgres_through_crashes_of_both(servers: RunningServers) -> None:
    database = fresh_database(servers.database_url)
    asyncio.run(migrate(database))

    async def story() -> None:
        async with stream(servers.redis_url) as (source, client):
            async with running(Relay(source, database)) as relay:
                await add(client, one_life(new_id(START_MS), START_MS, 1))
                await eventually(lambda: relay.stats.committed == 3, "the first life")
                servers.postgres.kill()
                await add(client, one_life(new_id(START_MS), START_MS, 4))
                await servers.postgres.restart_async()
                await eventually(lambda: relay.stats.committed == 6, "the second life", timeout=30)
                await client.execute_command("WAITAOF", 1, 0, 5000)
                servers.redis.kill()
                await eventually(lambda: relay.stats.state == "waiting", "the relay to notice")
                await servers.redis.restart_async()
                await add(client, one_life(new_id(START_MS), START_MS, 7))
                await eventually(lambda: relay.stats.committed == 9, "the third life", timeout=30)
                await eventually(lambda: relay.stats.backlog == 0, "no backlog")
            assert (await client.xpending(ShardKeys().events, AUDIT_GROUP))["pending"] == 0

    asyncio.run(story())
    assert rows(database, "SELECT count(*) AS n FROM taskq.tasks WHERE state = 'succeeded'") == [{"n": 3}]
