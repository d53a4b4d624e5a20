"""What is killed, and what must not be lost by it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.running import Up
from tests.support.automaton import pauses
from tests.support.servers import start_postgres
from tests.support.wait import eventually_sync

type StartUp = Callable[..., Up]

SHORT_LEASE = {"TASKQ_LEASE": "2"}  # seconds, so that a test need not wait for half a minute
OUTAGE_S = float(os.environ.get("OUTAGE_SECONDS", "10"))


def ended_count(up: Up) -> int:
    return up.overview()["ledger"]["ended"]


@pytest.mark.slow
def test_killed_runners_and_a_killed_worker_lose_no_task(start_up: StartUp) -> None:
    up = start_up("data", "--workers", "2", env=SHORT_LEASE)
    ids: list[str] = []
    for part in range(20):
        before = ended_count(up)
        ids += up.submit_many([_short() for _ in range(50)])
        if part in {5, 12}:  # something that is sure to run when the kill comes
            ids.append(up.submit("demo.sleep", {"seconds": 3}, max_attempts=10))
            eventually_sync(lambda it=ids[-1]: up.task(it)["state"] == "running", "a task to interrupt")
        if part == 5:
            up.process("taskq runner").send_signal(signal.SIGKILL)
        if part == 12:
            up.process("taskq worker").send_signal(signal.SIGKILL)
        eventually_sync(lambda before=before: ended_count(up) >= before + 25, "half a part", timeout=60)

    up.await_quiet(timeout=60)
    report = up.audit(ids)
    states = Counter(str(report.states[task_id]) for task_id in ids)
    assert states == {"succeeded": 1002}
    assert up.overview()["ledger"]["unexplained"] == 0
    assert "worker ended (SIGKILL); restarting" in up.err.read_text()
    kinds = [kind for task_id in ids for kind in report.kinds(task_id)]
    assert {"retrying", "released"} & set(kinds), "the kills hit something"


def _short() -> dict[str, Any]:
    return {"name": "demo.sleep", "payload": {"seconds": 0.1}, "max_attempts": 10}


@pytest.mark.slow
def test_a_task_that_crashes_ends_dead_and_costs_its_neighbours_nothing(start_up: StartUp) -> None:
    up = start_up()
    neighbours = up.submit_many([{"name": "demo.sleep", "payload": {"seconds": 1}} for _ in range(10)])
    crash = up.submit("demo.crash", {"signal": "SIGKILL"})
    view = up.ended(crash, timeout=60)
    assert view["state"] == "dead"
    assert "SIGKILL" in str(view["error"])
    up.await_quiet(timeout=60)
    report = up.audit([*neighbours, crash])
    for task_id in neighbours:
        view = up.task(task_id)
        assert (view["state"], view["attempt"]) == ("succeeded", 1), report.kinds(task_id)


@pytest.mark.slow
def test_all_killed_at_once_and_started_again_finishes_every_task(start_up: StartUp) -> None:
    up = start_up(env=SHORT_LEASE)
    tasks = [{"name": "demo.sleep", "payload": {"seconds": 0.3}, "max_attempts": 10} for _ in range(600)]
    ids = [
        *up.submit_many(tasks),
        up.submit("demo.noop", delay=8.0),
        up.submit("demo.flaky", {"fail_times": 2}),
    ]
    eventually_sync(lambda: ended_count(up) >= 100, "some to be done", timeout=60)
    token = (up.data / "token").read_text()

    up.kill_all()
    up.start()

    assert (up.data / "token").read_text() == token
    up.await_quiet(timeout=90)
    report = up.audit(ids)
    assert {str(report.states[task_id]) for task_id in ids} == {"succeeded"}
    assert up.stop() == 0


@pytest.mark.slow
def test_an_accepted_id_is_readable_at_every_instant_while_postgres_is_away(
    start_up: StartUp, tmp_path: Path
) -> None:
    history = start_postgres(tmp_path / "history")
    try:
        up = start_up("data", env={"TASKQ_DATABASE_URL": history.url})
        watch = _Watch(up)
        with watch:
            eventually_sync(lambda: watch.reads > 100, "reads before the outage", timeout=30)
            history.kill()
            time.sleep(OUTAGE_S)  # the length of the outage is what is tested
            reads = watch.reads
            history.restart()
            eventually_sync(lambda: watch.reads > reads + 100, "reads after the outage", timeout=30)
        assert not watch.failures, watch.failures[:5]
        up.await_quiet(timeout=60)
        report = up.audit(watch.accepted)
        assert len(report.states) >= len(watch.accepted)
    finally:
        history.stop()


class _Watch:
    """Submits, and reads what it submitted, again and again; notes every answer but 200."""

    def __init__(self, up: Up) -> None:
        self._up = up
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.accepted: list[str] = []
        self.failures: list[str] = []
        self.reads = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.accepted.append(self._up.submit("demo.noop"))
                for task_id in (self.accepted[-1], self.accepted[self.reads % len(self.accepted)]):
                    reply = self._up.http.get(f"{self._up.api}/api/tasks/{task_id}")
                    self.reads += 1
                    if reply.status_code != 200:
                        self.failures.append(f"{task_id}: {reply.status_code} {reply.text}")
            except Exception as error:  # noqa: BLE001  # the test tells it
                self.failures.append(repr(error))
            self._stop.wait(0.02)


@pytest.mark.slow
def test_a_role_that_dies_comes_back_and_the_api_answers_again(start_up: StartUp) -> None:
    up = start_up()
    for title in ("taskq api", "taskq relay"):
        old = up.process(title)
        old.send_signal(signal.SIGKILL)
        eventually_sync(
            lambda title=title, old=old: [one for one in up.processes(title) if one.pid != old.pid],
            f"a new {title}",
            timeout=20,
        )
    eventually_sync(lambda: _answers(up), "the API to answer", timeout=30)
    assert up.ended(up.submit("demo.noop"))["state"] == "succeeded"


def _answers(up: Up) -> bool:
    try:
        return up.get("/health")["status"] == "ok"
    except Exception:  # noqa: BLE001  # not yet
        return False


@pytest.mark.slow
def test_a_stop_gives_back_what_runs_and_burns_no_attempt(start_up: StartUp) -> None:
    up = start_up("data", "--grace", "0.5")
    task_id = up.submit("demo.sleep", {"seconds": 120}, max_attempts=1)
    eventually_sync(lambda: up.task(task_id)["state"] == "running", "the task to run")
    assert up.stop(signal.SIGTERM) == 0
    up.start()
    eventually_sync(lambda: up.task(task_id)["state"] == "running", "the task to run again")
    assert up.task(task_id)["attempt"] == 1
    assert up.taskq("cancel", task_id).returncode == 0
    assert up.ended(task_id)["state"] == "cancelled"
    up.await_quiet()
    report = up.audit([task_id])
    kinds = [kind for kind in report.kinds(task_id) if kind != "action"]
    assert kinds == ["submitted", "started", "released", "started", "cancelled"]


@pytest.mark.slow
def test_up_killed_and_started_again_at_once(start_up: StartUp) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    up = start_up("data", "--grace", "1", "--port", port)
    ended = up.submit("demo.noop")
    up.ended(ended)
    orphans = up.kill_up()
    up.start()  # at once, over the same folder and port
    assert up.api.endswith(port)
    assert up.ended(ended)["state"] == "succeeded"
    eventually_sync(lambda: not _living(orphans), "the old roles and servers to be gone", timeout=20)
    assert up.ended(up.submit("demo.noop"))["state"] == "succeeded"
    up.audit()


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_pauses_are_seen_by_the_automaton(shared: Up) -> None:
    task_id = shared.submit("demo.flaky", {"fail_times": 1})
    shared.ended(task_id)
    report = shared.audit([task_id])
    (pause,) = pauses(report, task_id)
    assert 1000 <= pause <= 3000
