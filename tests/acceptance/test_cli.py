"""The command from a second terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.running import Up, command, environment, taskq
from tests.support.wait import eventually_sync


def test_submit_waits_and_prints_the_result(shared: Up) -> None:
    done = shared.taskq("submit", "demo.echo", "text=hi", "n=5", "list=[1,2]", "--wait")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"text": "hi", "n": 5, "list": [1, 2]}


@pytest.mark.slow
def test_submit_prints_the_id_that_task_finds(shared: Up) -> None:
    task_id = shared.taskq("submit", "demo.echo", "--json", '{"a": [1]}', "--priority", "high").stdout.strip()
    shared.ended(task_id)
    view = json.loads(shared.taskq("task", task_id, "--json").stdout)
    assert view == shared.task(task_id)
    assert view["payload"] == {"a": [1]}
    shown = shared.taskq("task", task_id).stdout
    assert "succeeded" in shown
    assert task_id in shown


def test_last_is_the_newest_and_follow_ends_with_it(shared: Up) -> None:
    task_id = shared.taskq("submit", "demo.progress", "steps=3", "seconds=0.3").stdout.strip()
    done = shared.taskq("task", "last", "--follow")
    assert done.returncode == 0, done.stderr
    assert task_id in done.stdout
    kinds = [line.split()[1] for line in done.stdout.splitlines() if line[:2].isdigit()]
    assert kinds[0] == "submitted"
    assert kinds[-1] == "succeeded"


def test_follow_tells_by_its_exit_code_that_a_task_died(shared: Up) -> None:
    task_id = shared.submit("demo.fail", {"message": "\x1b[31mred\u202e"}, max_attempts=1)
    done = shared.taskq("task", task_id, "--follow")
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred\\u202e" in done.stdout


@pytest.mark.parametrize(
    ("verb", "key"), [("tasks", "tasks"), ("queues", "queues"), ("workers", "workers"), ("events", "events")]
)
def test_reading_verbs_print_tables_and_json(shared: Up, verb: str, key: str) -> None:
    shared.ended(shared.submit("demo.noop"))
    found = json.loads(shared.taskq(verb, "--json").stdout)
    assert found[key]
    table = shared.taskq(verb)
    assert table.returncode == 0, table.stderr
    assert table.stdout.strip()
    assert "\x1b" not in table.stdout


def test_events_follow_what_happens(shared: Up) -> None:
    follower = subprocess.Popen(
        [*command("events", "--follow", "--json"), "--data", str(shared.data)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        task_id = eventually_sync(lambda: _seen_by(follower, shared), "an event to be followed", timeout=20)
        assert task_id
    finally:
        follower.kill()
        assert follower.stdout is not None
        follower.stdout.close()
        follower.wait()


def _seen_by(follower: subprocess.Popen[str], up: Up) -> str:
    """The id of a task whose submission the follower printed."""
    assert follower.stdout is not None
    task_id = up.submit("demo.noop")
    deadline = time.monotonic() + 2
    os.set_blocking(follower.stdout.fileno(), False)
    while time.monotonic() < deadline:
        line = follower.stdout.readline()
        if line and json.loads(line)["task_id"] == task_id:
            return task_id
        if not line:
            time.sleep(0.02)
    return ""


@pytest.mark.slow
def test_cancel_and_retry(shared: Up) -> None:
    task_id = shared.submit("demo.noop", delay=3600)
    done = shared.taskq("cancel", task_id, "--reason", "not wanted")
    assert done.stdout.split() == [task_id, "cancelled"], done.stderr
    again = shared.taskq("cancel", task_id)
    assert again.returncode == 0, "cancelling what is cancelled changes nothing"
    assert shared.taskq("retry", task_id).returncode == 0
    assert shared.ended(task_id)["state"] == "succeeded"
    assert shared.taskq("cancel", task_id).returncode == 4


@pytest.mark.slow
def test_exit_codes_and_one_line_of_help(shared: Up, tmp_path: Path) -> None:
    unknown = "01a20bf0-0000-7000-8000-000000000000"
    cases = [
        (4, shared.taskq("submit", "demo.nope")),
        (4, shared.taskq("submit", "demo.sleep", "seconds=-1")),
        (4, shared.taskq("submit", "demo.echo", "text=\udcff")),
        (4, shared.taskq("submit", "demo.echo", "--json", "{bad")),
        (2, shared.taskq("backup", str(tmp_path / "nowhere" / "file.tar.gz"))),
        (2, shared.taskq("worker")),
        (3, shared.taskq("task", "123")),
        (3, shared.taskq("task", unknown)),
        (2, shared.taskq("tasks", "--bogus")),
        (2, shared.taskq("bogus")),
        (4, shared.taskq("tasks", "--state", "bogus")),
        (1, taskq("tasks", "--data", str(tmp_path / "nothing"))),
    ]
    for code, done in cases:
        assert done.returncode == code, (done.args, done.stderr)
        assert done.stderr.startswith("taskq: "), done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "nothing runs in" in cases[-1][1].stderr
    assert "./run" in cases[-1][1].stderr


def test_config_shows_sources_and_hides_secrets(shared: Up, tmp_path: Path) -> None:
    (tmp_path / "taskq.toml").write_text('lease = 7.5\nredis_url = "redis://:hunter2@localhost/0"\n')
    (tmp_path / "taskq.toml").chmod(0o600)
    done = taskq(
        "config", "--json", cwd=tmp_path, env={"TASKQ_RELEASE": "r1", "TASKQ_TOKEN": "tq_abc_" + "s" * 43}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["lease"] == {"value": "7.5", "source": "taskq.toml"}
    assert found["release"] == {"value": "r1", "source": "TASKQ_RELEASE"}
    assert "hunter2" not in done.stdout
    assert "sss" not in done.stdout
    bad = taskq("config", cwd=tmp_path, env={"TASKQ_LAESE": "1"})
    assert bad.returncode == 2
    assert "TASKQ_LEASE" in bad.stderr


@pytest.mark.slow
def test_a_second_worker_joins_and_leaves(shared: Up) -> None:
    """`taskq worker` by itself, over the servers of a running system."""
    worker = subprocess.Popen(
        [*command("worker", "--import", "services.tasks", "--queues", "demo", "--label", "second")],
        env=environment({"TASKQ_REDIS_URL": shared.redis_url, "TASKQ_HOME": str(shared.data)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def joined() -> list[str]:
            return [one["id"] for one in shared.get("/api/workers")["workers"] if one["pid"] == worker.pid]

        (worker_id,) = eventually_sync(joined, "the second worker to join", timeout=30)
        (view,) = [one for one in shared.get("/api/workers")["workers"] if one["id"] == worker_id]
        assert view["queues"] == ["demo"]
        worker.terminate()
        assert worker.wait(20) == 0
        eventually_sync(lambda: not joined(), "the second worker to leave")
    finally:
        worker.kill()
        worker.wait()


def test_new_writes_a_task_that_runs_and_its_test(tmp_path: Path) -> None:
    assert taskq("new", "photos.thumbnail", cwd=tmp_path).returncode == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_photos.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    again = taskq("new", "photos.thumbnail", cwd=tmp_path)
    assert again.returncode == 2
    assert "exists" in again.stderr


def test_the_help_comes_quickly() -> None:
    def seconds() -> float:
        started = os.times()
        subprocess.run(command("--help"), env=environment(), check=True, capture_output=True)
        ended = os.times()
        return (ended.children_user - started.children_user) + (
            ended.children_system - started.children_system
        )

    assert min(seconds() for _ in range(3)) < 0.6, "CPU seconds"
