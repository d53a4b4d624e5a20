"""The same system over Debian's Redis and PostgreSQL, given by URL."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.acceptance.running import Up
from tests.acceptance.test_thin_path import test_a_failed_attempt_waits_one_two_and_four_seconds as flaky
from tests.acceptance.test_thin_path import test_a_posted_task_runs_and_shows_how as thin_path
from tests.acceptance.test_thin_path import test_the_printed_line_works_as_pasted as printed_line
from tests.support.servers import start_postgres, start_redis
from tests.support.wait import eventually_sync

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Generator[Up]:
    """A system over servers that it did not start."""
    base: Path = tmp_path_factory.mktemp("debian")
    redis = start_redis(base / "redis")
    try:
        history = start_postgres(base / "history")
        try:
            env = {"TASKQ_REDIS_URL": redis.url, "TASKQ_DATABASE_URL": history.url, "TASKQ_LEASE": "2"}
            up = Up(base / "data", env=env)
            try:
                yield up.start()
                assert up.stop() == 0
            finally:
                up.close()
        finally:
            history.stop()
    finally:
        redis.stop()


def test_thin_path(debian: Up) -> None:
    thin_path(debian)


def test_printed_line(debian: Up) -> None:
    printed_line(debian)


def test_flaky(debian: Up) -> None:
    flaky(debian)


def test_a_killed_runner_loses_nothing(debian: Up) -> None:
    tasks = [{"name": "demo.sleep", "payload": {"seconds": 0.2}, "max_attempts": 10} for _ in range(300)]
    ids = debian.submit_many(tasks)
    before = debian.overview()["ledger"]["ended"]
    eventually_sync(lambda: debian.overview()["ledger"]["ended"] > before, "some to be done", timeout=30)
    debian.process("taskq runner").send_signal(signal.SIGKILL)
    debian.await_quiet()
    debian.audit(ids)


def test_no_server_of_ours_runs_beside_them(debian: Up) -> None:
    titles = [" ".join(process.cmdline()) for process in debian.remember()]
    assert not [title for title in titles if "valkey" in title or "postgres" in title]
