"""The schema: made, made again, refused when it is foreign; and what each role may do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import date

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from taskq_core.audit import migrate as migrating
from taskq_core.audit.migrate import check, migrate, migrations
from taskq_core.audit.partitions import make_partitions
from taskq_core.audit.session import connect
from taskq_core.embedded import find_postgres
from taskq_core.errors import ConfigError, Unavailable
from tests.support.history import execute, fresh_database, rows
from tests.support.servers import start_postgres


@pytest.fixture(scope="module", params=["embedded", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = find_postgres().path if request.param == "embedded" else "postgres"
    handle = start_postgres(tmp_path_factory.mktemp("pg"), program=program)
    yield handle.url
    handle.stop()


@pytest.fixture
def database(server: str) -> str:
    return fresh_database(server)


def test_it_is_made_once(database: str) -> None:
    with pytest.raises(Unavailable, match="taskq migrate"):
        asyncio.run(check(database))
    said = asyncio.run(migrate(database))
    assert said[: len(migrations())] == [f"applied {step.name}" for step in migrations()]
    assert asyncio.run(migrate(database)) == []
    asyncio.run(check(database))


def test_two_at_once(database: str) -> None:
    async def both() -> tuple[list[str], list[str]]:
        return await asyncio.gather(migrate(database), migrate(database))

    said = [line for lines in asyncio.run(both()) for line in lines if line.startswith("applied")]
    assert len(said) == len(migrations())


def test_a_newer_schema_is_refused(database: str) -> None:
    asyncio.run(migrate(database))
    execute(database, "INSERT INTO taskq.schema_version VALUES (9999, '9999_from_tomorrow', 'x')")
    for verb in (migrate, check):
        with pytest.raises(ConfigError, match="newer than this release: it has 9999_from_tomorrow"):
            asyncio.run(verb(database))


def test_a_changed_migration_is_refused(database: str) -> None:
    asyncio.run(migrate(database))
    execute(database, "UPDATE taskq.schema_version SET digest = 'x' WHERE version = 1")
    with pytest.raises(ConfigError, match="differs from what was applied"):
        asyncio.run(migrate(database))


def test_an_old_server_is_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "MIN_SERVER", 99)
    with pytest.raises(ConfigError, match="PostgreSQL 99 or newer is needed"):
        asyncio.run(migrate(database))


def test_a_server_that_is_away() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        asyncio.run(migrate("postgresql://nobody@127.0.0.1:1/none"))


def test_a_user_who_may_not_create_roles_is_told(server: str, database: str) -> None:
    execute(server, "DROP ROLE IF EXISTS plain")
    execute(server, "CREATE ROLE plain LOGIN PASSWORD 'pw'")
    execute(
        database,
        "GRANT CREATE ON DATABASE " + rows(database, "SELECT current_database() AS d")[0]["d"] + " TO plain",
    )
    drop_roles(server)
    said = asyncio.run(migrate(make_conninfo(database, user="plain", password="pw")))
    assert "left out role taskq_relay: this user may not create roles" in said
    assert "left out role taskq_reader: this user may not create roles" in said


def drop_roles(server: str) -> None:
    """Roles belong to the server: let go of them in every database of the tests before."""
    for found in rows(server, "SELECT datname FROM pg_database WHERE datname LIKE 't%%' AND datallowconn"):
        url = make_conninfo(server, dbname=found["datname"])
        for role in rows(
            url, "SELECT rolname FROM pg_roles WHERE rolname IN ('taskq_relay', 'taskq_reader')"
        ):
            execute(url, f"DROP OWNED BY {role['rolname']}")
    for role in ("taskq_relay", "taskq_reader"):
        execute(server, f"DROP ROLE IF EXISTS {role}")


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("taskq_relay", "UPDATE taskq.events SET kind = 'x'"),
        ("taskq_relay", "DELETE FROM taskq.events"),
        ("taskq_relay", "TRUNCATE taskq.events"),
        ("taskq_relay", "DELETE FROM taskq.tasks"),
        ("taskq_relay", "DROP TABLE taskq.events"),
        ("taskq_relay", "DELETE FROM taskq.events_default"),
        ("taskq_reader", "INSERT INTO taskq.marks VALUES (0, 1, 1, 1, 1, now(), 'release', 'x', 'y')"),
        ("taskq_reader", "UPDATE taskq.tasks SET state = 'x'"),
        ("taskq_reader", "SELECT raw FROM taskq.payloads"),
        ("taskq_reader", "SELECT raw FROM taskq.quarantine"),
        ("taskq_reader", "SELECT * FROM taskq.make_partitions(current_date, 1)"),
    ],
)
def test_what_a_role_may_not_do(database: str, role: str, statement: str) -> None:
    asyncio.run(migrate(database))
    with psycopg.connect(database) as connection:
        connection.execute(f"SET ROLE {role}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_the_relays_own_session_cannot_change_events(database: str) -> None:
    async def story() -> None:
        async with connect(database) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute("DELETE FROM taskq.events")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute("UPDATE taskq.events SET kind = 'x'")

    asyncio.run(migrate(database))
    asyncio.run(story())


def test_partitions_stand_a_week_ahead(database: str) -> None:
    async def story() -> None:
        async with connect(database) as connection:
            assert await make_partitions(connection, date(2026, 12, 30))
            assert await make_partitions(connection, date(2026, 12, 30)) == []
            (more,) = [
                one for one in await make_partitions(connection, date(2026, 12, 31)) if one.parent == "events"
            ]
            assert more.starts == date(2027, 1, 10)

    asyncio.run(migrate(database))
    asyncio.run(story())
    names = {
        row["relname"] for row in rows(database, "SELECT relname::text FROM pg_class WHERE relkind = 'r'")
    }
    assert {
        "events_20261229",
        "events_20270106",
        "tasks_20261228",
        "tasks_20270104",
        "payloads_20270104",
    } <= names


def test_rows_without_a_home_move_into_one(database: str) -> None:
    async def story() -> None:
        async with connect(database) as connection:
            made = {
                (one.parent, one.starts): one.moved
                for one in await make_partitions(connection, date(2026, 12, 30))
            }
            assert made["events", date(2026, 12, 31)] == 2
            assert made["events", date(2031, 5, 1)] == 1
            assert made["payloads", date(2026, 12, 28)] == 1

    asyncio.run(migrate(database))
    event = (
        "INSERT INTO taskq.events (day, shard, incarnation, ms, seq, idx, n, at, kind,"
        " attempt, epoch, detail, digest)"
        " VALUES ('{}', 0, 1, {}, 0, 0, 1, now(), 'action', 0, 0, '{{}}', 1)"
    )
    for day, ms in (("2026-12-31", 1), ("2026-12-31", 2), ("2031-05-01", 3)):
        execute(database, event.format(day, ms))
    execute(
        database, "INSERT INTO taskq.payloads VALUES (taskq.id_at('2026-12-30 10:00Z'), 1, '', 'd', '', NULL)"
    )
    asyncio.run(story())
    found = rows(
        database,
        "SELECT relname AS home, ms FROM taskq.events e, pg_class c WHERE c.oid = e.tableoid ORDER BY ms",
    )
    assert [(row["home"], row["ms"]) for row in found] == [
        ("events_20261231", 1),
        ("events_20261231", 2),
        ("events_20310501", 3),
    ]


def test_a_moment_becomes_an_id_and_back(database: str) -> None:
    asyncio.run(migrate(database))
    (row,) = rows(
        database,
        "SELECT taskq.id_at('2026-11-24 10:00:00.123Z')::text AS id,"
        " taskq.time_of(taskq.id_at('2026-11-24 10:00:00.123Z')) = '2026-11-24 10:00:00.123Z' AS same",
    )
    assert row["same"]
