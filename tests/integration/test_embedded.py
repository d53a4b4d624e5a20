"""The embedded servers, real ones: start, crash, restart, refusal, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from taskq_core.embedded import DataFolder, ServerOptions, Servers
from taskq_core.embedded import find as finding
from taskq_core.errors import AlreadyRunning, ConfigError, DataFolderError, ServerMissing
from tests.support.servers import (
    RunningServers,
    await_gone,
    running_servers,
    start_postgres,
    start_redis,
)
from tests.support.wait import eventually, eventually_sync

CHECKOUT = Path(__file__).parents[2]

HOLD = """
import asyncio, sys
from taskq_core.embedded import Servers

async def main():
    async with Servers(sys.argv[1]) as servers:
        print(servers.valkey.child.pid, servers.postgres.child.pid, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""

# Root as in a container: all users are there, but no further user namespace may be made.
NO_NAMESPACES = """
import os, sys
from pathlib import Path

ready, done = os.pipe(), os.pipe()
if os.fork() == 0:
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{os.getppid()}/{name}").write_text("0 0 70000")
    os.write(done[1], b".")
    os._exit(0)
os.unshare(os.CLONE_NEWUSER)
os.write(ready[1], b".")
os.read(done[0], 1)
Path("/proc/sys/user/max_user_namespaces").write_text("0")
os.execv(sys.argv[1], sys.argv[1:])
"""


def write(running: RunningServers, value: str) -> None:
    with redis.Redis.from_url(running.redis_url) as client:
        client.set("k", value)
    with psycopg.connect(running.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (v text)")
        connection.execute("INSERT INTO t VALUES (%s)", [value])


def read(running: RunningServers) -> tuple[object, object]:
    with redis.Redis.from_url(running.redis_url, decode_responses=True) as client:
        value = client.get("k")
    with psycopg.connect(running.database_url) as connection:
        row = connection.execute("SELECT max(v) FROM t").fetchone()
    return value, row[0] if row else None


def config(running: RunningServers, name: str) -> str:
    with redis.Redis.from_url(running.redis_url, decode_responses=True) as client:
        return str(client.config_get(name)[name])


def holder(folder: Path, *before: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that runs the servers over a folder until its stdin ends, and the servers' process ids."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


def end(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    process.stdin.close()
    code = process.wait(timeout=30)
    assert process.stdout is not None
    process.stdout.close()
    return code


def test_data_survives_a_crash_of_both_servers(tmp_path: Path) -> None:
    with running_servers(tmp_path / "data") as running:
        write(running, "before")
        running.redis.kill()
        running.postgres.kill()
        running.redis.restart()
        running.postgres.restart()
        assert read(running) == ("before", "before")
        pids = (running.redis.pid, running.postgres.pid)
    await_gone(*pids)
    with running_servers(tmp_path / "data") as again:
        assert read(again) == ("before", "before")


def test_the_settings_that_nothing_may_be_lost_by(tmp_path: Path) -> None:
    with running_servers(
        tmp_path / "data", ServerOptions(valkey_settings={"hash-max-listpack-value": "512"})
    ) as up:
        assert config(up, "appendonly") == "yes"
        assert config(up, "appendfsync") == "everysec"
        assert config(up, "maxmemory-policy") == "noeviction"
        assert int(config(up, "maxmemory")) > 0
        assert config(up, "port") == "0"
        assert config(up, "hash-max-listpack-value") == "512"
        with psycopg.connect(up.database_url) as connection:
            shown = {
                name: connection.execute(f"SHOW {name}").fetchone()
                for name in (
                    "fsync",
                    "synchronous_commit",
                    "data_checksums",
                    "server_encoding",
                    "listen_addresses",
                )
            }
        assert shown == {
            "fsync": ("on",),
            "synchronous_commit": ("on",),
            "data_checksums": ("on",),
            "server_encoding": ("UTF8",),
            "listen_addresses": ("",),
        }


def test_a_server_that_dies_is_restarted_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []

    async def scenario() -> None:
        async with Servers(tmp_path / "data", notify=said.append) as servers:
            assert servers.valkey is not None
            assert servers.postgres is not None
            before = (servers.valkey.child.pid, servers.postgres.child.pid)
            for pid in before:
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
            await eventually(lambda: sum("is back" in line for line in said) == 2, "both to be back")
            with redis.Redis.from_url(servers.redis_url) as client:
                assert client.ping()

    asyncio.run(scenario())
    assert "Valkey ended (signal 9); restarting" in said
    assert "PostgreSQL ended (signal 9); restarting" in said


def test_two_starts_on_one_folder(tmp_path: Path) -> None:
    with (
        running_servers(tmp_path / "data"),
        pytest.raises(AlreadyRunning, match=rf"process {os.getpid()} already runs taskq in .*--data"),
    ):
        asyncio.run(Servers(tmp_path / "data").start())


def test_a_deep_folder_gets_ports_with_passwords(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ('with space, comma and "quote"' + "e" * 40)
    with running_servers(deep) as running:
        write(running, "deep")
        assert read(running) == ("deep", "deep")
        assert running.redis_url.startswith("redis://:")
        assert "@127.0.0.1:" in running.database_url
        port = int(running.redis_url.rpartition(":")[2].partition("/")[0])
        with (
            redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        port = int(running.database_url.rpartition("@127.0.0.1:")[2].partition("/")[0])
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(host="127.0.0.1", port=port, user="taskq", dbname="taskq", password="guess")


def test_odd_characters_in_a_short_path(tmp_path: Path) -> None:
    short = Path("/tmp") / f'tq "{os.getpid()}" \\ü%20'
    try:
        with running_servers(short) as running:
            assert running.redis_url.startswith("unix:")
            write(running, "odd")
            assert read(running) == ("odd", "odd")
    finally:
        shutil.rmtree(short, ignore_errors=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_killed_parent_takes_its_servers_along(tmp_path: Path) -> None:
    process, pids = holder(tmp_path / "data")
    assert len(pids) == 2
    process.kill()
    end(process)
    await_gone(*pids)
    log = (tmp_path / "data" / "postgres.log").read_text()
    assert "received fast shutdown request" in log


def test_a_start_right_after_a_kill_waits_for_the_old_servers(tmp_path: Path) -> None:
    process, pids = holder(tmp_path / "data")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # they cannot stop yet
    process.kill()
    end(process)

    async def scenario() -> None:
        servers = Servers(tmp_path / "data")
        start = asyncio.create_task(servers.start())
        await eventually(lambda: servers.folder.claimed, "the folder to be taken")
        assert not start.done()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        await start
        await servers.stop()

    asyncio.run(scenario())
    await_gone(*pids)


def test_a_clean_end_leaves_no_process(tmp_path: Path) -> None:
    process, pids = holder(tmp_path / "data")
    assert end(process) == 0
    await_gone(*pids)
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


def test_an_interrupted_set_up_is_begun_anew(tmp_path: Path) -> None:
    half = tmp_path / "data" / "postgres.new"
    with DataFolder(tmp_path / "data").claim():
        half.mkdir()
        (half / "PG_VERSION").write_text("18\n")
    with running_servers(tmp_path / "data") as running:
        write(running, "whole")
    assert not half.exists()


def test_data_of_another_postgres_names_what_to_do(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    with folder.claim():
        folder.postgres.mkdir()
        (folder.postgres / "PG_VERSION").write_text("11\n")
    with pytest.raises(DataFolderError, match=r"belongs to PostgreSQL 11.*restore-backup.*--data"):
        asyncio.run(Servers(folder).start())
    assert not folder.claimed


def test_a_server_that_cannot_start_is_said_and_the_other_one_stopped(tmp_path: Path) -> None:
    servers = Servers(tmp_path / "data", ServerOptions(valkey_settings={"no-such-setting": "1"}))
    with pytest.raises(ServerMissing, match=r"Valkey did not start: .*valkey\.log"):
        asyncio.run(servers.start())
    assert servers.postgres is not None
    assert not servers.postgres.child.alive
    assert not servers.folder.claimed


def test_one_server_alone(tmp_path: Path) -> None:
    servers = Servers(tmp_path / "data", ServerOptions(postgres=False))
    asyncio.run(servers.start())
    try:
        assert servers.redis_url
        with pytest.raises(ConfigError, match="PostgreSQL was switched off"):
            _ = servers.database_url
    finally:
        asyncio.run(servers.stop())


def test_no_server_found_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "_package_folder", lambda _: None)
    monkeypatch.setattr(finding, "_POSTGRES_FOLDERS", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ServerMissing, match=r"apt-get install redis-server.*TASKQ_REDIS_URL"):
        finding.find_valkey()
    with pytest.raises(ServerMissing, match=r"apt-get install postgresql.*TASKQ_DATABASE_URL"):
        finding.find_postgres()


def test_programs_on_path_that_do_not_fit_are_passed_over_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n")
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\nexit 3\n")
    for program in (old, broken):
        program.chmod(0o755)
    monkeypatch.setattr(finding, "_package_folder", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerMissing, match=r"valkey-server does not run; .*is redis 6\.2\.14"):
        finding.find_valkey()


def test_debians_servers_carry_the_same_settings(tmp_path: Path) -> None:
    cache = start_redis(tmp_path / "r")
    try:
        database = start_postgres(tmp_path / "p")
        try:
            assert cache.version >= (7, 0)
            assert database.version >= (15,)
            with redis.Redis.from_url(cache.url) as client:
                client.set("k", "v")
                cache.restart()
                assert client.get("k") == b"v"
            database.kill()
            database.restart()
            with psycopg.connect(database.url) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            database.stop()
    finally:
        cache.stop()


def test_a_log_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskq_core.embedded import process

    monkeypatch.setattr(process, "LOG_BYTES", 100)

    async def scenario() -> None:
        async with Servers(tmp_path / "data", ServerOptions(postgres=False)):
            kept = tmp_path / "data" / "valkey.log.1"
            await eventually(kept.exists, "the log to be turned over")
            assert (tmp_path / "data" / "valkey.log").stat().st_size <= 100

    asyncio.run(scenario())


def normal_user() -> list[str]:
    """A command prefix that runs as a mapped normal user; empty where that is not allowed."""
    prefix = ["unshare", "--user", "--map-user=65534"]
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        allowed = False
    return prefix if allowed else []


@pytest.mark.skipif(
    os.geteuid() != 0 or not normal_user(), reason="needs root and user namespaces to play a user"
)
def test_a_normal_user_needs_nothing_special(tmp_path: Path) -> None:
    process, pids = holder(tmp_path / "data", *normal_user())
    assert len(pids) == 2
    status = Path(f"/proc/{pids[1]}/uid_map").read_text().split()
    assert status[0] == "65534"
    assert end(process) == 0
    await_gone(*pids)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to forbid user namespaces")
def test_root_without_user_namespaces_becomes_nobody(tmp_path: Path) -> None:
    """As in a container: the servers' folders go to `nobody`, and come back with user namespaces."""
    place = Path("/var/tmp") / f"taskq-test-{os.getpid()}"
    place.mkdir()
    place.chmod(0o755)
    try:
        process, pids = holder(place / "data", sys.executable, "-c", NO_NAMESPACES)
        assert len(pids) == 2
        assert (place / "data" / "postgres").stat().st_uid == 65534
        assert end(process) == 0
        await_gone(*pids)
        with running_servers(place / "data") as running:
            write(running, "back")
            assert (place / "data" / "postgres").stat().st_uid == 0
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_waiting_tells_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.05 s for a wonder; last answer: 0"):
        eventually_sync(lambda: 0, "a wonder", timeout=0.05)
