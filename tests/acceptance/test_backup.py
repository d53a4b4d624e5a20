"""A backup of a system at work, and what a restore makes of it."""

from __future__ import annotations

import gzip
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.running import Up, taskq
from tests.acceptance.test_thin_path import _photograph as photograph
from tests.support.servers import start_postgres, start_redis

type StartUp = Callable[..., Up]

SHORT_LEASE = {"TASKQ_LEASE": "2"}


def _work(up: Up) -> list[str]:
    """Tasks in every state."""
    upload = up.http.post(
        f"{up.api}/api/uploads",
        content=photograph("astronaut"),
        headers={"Content-Type": "application/octet-stream"},
    ).json()
    source = upload.get("source") or f"upload:{upload['sha256']}"
    ids = up.submit_many([{"name": "demo.noop"} for _ in range(100)])
    ids += up.submit_many(
        [{"name": "demo.sleep", "payload": {"seconds": 0.3}, "max_attempts": 10} for _ in range(400)]
    )
    ids += [
        up.submit("demo.flaky", {"fail_times": 3}),
        up.submit("demo.fail", {"message": "no"}, max_attempts=1),
        up.submit("image.resize", {"source": source, "sizes": [[50, 50]]}, delay=6.0),
        up.submit("demo.sleep", {"seconds": 5.0}, max_attempts=10),
    ]
    return ids


@pytest.mark.slow
def test_a_backup_under_load_restores_every_accepted_task(start_up: StartUp, tmp_path: Path) -> None:
    up = start_up("old", env=SHORT_LEASE)
    ids = _work(up)
    file = tmp_path / "backup.tar.gz"
    made = up.taskq("backup", str(file))
    assert made.returncode == 0, made.stderr
    later = up.submit("demo.noop")
    assert file.stat().st_mode & 0o077 == 0, "it holds payloads"
    assert up.taskq("backup", str(file)).returncode == 2, "never overwritten"
    up.await_quiet()
    up.audit([*ids, later])
    up.stop()

    data = tmp_path / "new"
    restored = taskq("restore-backup", str(file), "--data", str(data))
    assert restored.returncode == 0, restored.stderr
    again = start_up("new", env=SHORT_LEASE)
    for task_id in ids:
        assert again.task(task_id)["id"] == task_id
    again.await_quiet(timeout=90)
    report = again.audit(ids)
    assert later not in report.states
    states = {str(report.states[task_id]) for task_id in ids}
    assert states == {"succeeded", "dead"}
    assert again.overview()["ledger"]["unexplained"] == 0

    again.stop()
    refused = taskq("restore-backup", str(file), "--data", str(data))
    assert refused.returncode == 2
    assert "--replace" in refused.stderr
    replaced = taskq("restore-backup", str(file), "--data", str(data), "--replace")
    assert replaced.returncode == 0, replaced.stderr


@pytest.mark.slow
def test_a_backup_goes_into_other_servers_given_by_url(start_up: StartUp, tmp_path: Path) -> None:
    """Out of the embedded Valkey and PostgreSQL 18, into Debian's Redis 7.0 and PostgreSQL 15."""
    old = start_up("old", env=SHORT_LEASE)
    ids = _work(old)
    file = tmp_path / "backup.tar.gz"
    assert old.taskq("backup", str(file)).returncode == 0
    old.stop(signal.SIGTERM)
    redis, history = start_redis(tmp_path / "redis"), start_postgres(tmp_path / "history")
    try:
        env = {"TASKQ_REDIS_URL": redis.url, "TASKQ_DATABASE_URL": history.url}
        done = taskq("restore-backup", str(file), "--data", str(tmp_path / "new"), env=env)
        assert done.returncode == 0, done.stderr
        up = start_up("new", env=env | SHORT_LEASE)
        for task_id in ids:
            assert up.task(task_id)["id"] == task_id
        up.await_quiet(timeout=90)
        report = up.audit(ids)
        assert {str(report.states[task_id]) for task_id in ids} == {"succeeded", "dead"}
        up.stop()
        refused = taskq("restore-backup", str(file), "--data", str(tmp_path / "third"), env=env)
        assert refused.returncode == 2, "the servers hold a system by now"
        again = taskq("restore-backup", str(file), "--data", str(tmp_path / "third"), "--replace", env=env)
        assert again.returncode == 0, again.stderr
    finally:
        history.stop()
        redis.stop()


@pytest.mark.slow
def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"no archive at all", gzip.compress(b"x" * 5000))):
        file = tmp_path / f"{number}.tar.gz"
        file.write_bytes(content)
        done = taskq("restore-backup", str(file), "--data", str(tmp_path / f"data{number}"))
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("taskq: ")


@pytest.mark.slow
def test_nothing_is_restored_into_a_running_system(shared: Up, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar.gz"
    assert shared.taskq("backup", str(file)).returncode == 0
    done = shared.taskq("restore-backup", str(file))
    assert done.returncode == 2
    assert "stop it" in done.stderr
