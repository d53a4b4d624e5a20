"""A real `taskq worker` against a real server: what it runs, what it survives, what it gives back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskq_core.broker.functions import Broker
from taskq_core.broker.keys import WORKERS, worker_key
from taskq_core.broker.record import TaskRecord, decode_record
from taskq_core.model.event import Event, decode_batch
from taskq_core.model.lifecycle import ENDED, NEUTRAL, Kind, State, fold
from taskq_core.model.task import Options, Submission, pack_options
from tests.support import worker_tasks
from tests.support.loop import in_loop
from tests.support.servers import ServerHandle, start_redis
from tests.support.wait import eventually

SUPPORT = Path(worker_tasks.__file__).parent
LEASE_S = 2.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHandle]:
    handle = start_redis(tmp_path_factory.mktemp("redis"))
    yield handle
    handle.stop()


class Fleet:
    """Workers as processes, and what they leave in Redis."""

    def __init__(self, broker: Broker, url: str) -> None:
        self.broker = broker
        self.url = url
        self.workers: list[asyncio.subprocess.Process] = []

    async def start(
        self, *flags: str, module: str = "worker_tasks", cwd: Path = SUPPORT, ready: bool = True
    ) -> asyncio.subprocess.Process:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.cli",
            "worker",
            "--import",
            module,
            *flags,
            cwd=cwd,
            env=os.environ
            | {
                "TASKQ_REDIS_URL": self.url,
                "TASKQ_LEASE": str(LEASE_S),
                "PYTHONPATH": str(SUPPORT.parent.parent),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.workers.append(worker)
        if ready:
            assert worker.stdout is not None
            line = await asyncio.wait_for(worker.stdout.readline(), 30)
            assert b"ready" in line, (await worker.stderr.read() if worker.stderr else b"").decode()
        return worker

    async def stop(self) -> None:
        for worker in self.workers:
            if worker.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.send_signal(signal.SIGCONT)
                    worker.kill()
            await worker.communicate()

    def runners(self, worker: asyncio.subprocess.Process) -> list[psutil.Process]:
        return psutil.Process(worker.pid).children()

    async def submit(self, name: str, payload: dict[str, Any] | None = None, **more: Any) -> str:
        (task_id,) = await self.broker.new_ids(1)
        await self.submit_all([(task_id, name, payload or {})], **more)
        return task_id

    async def submit_all(
        self, calls: list[tuple[str, str, dict[str, Any]]], *, unknown: bool = False
    ) -> None:
        """By name, as the service would: options come from the declaration."""
        tasks = worker_tasks.app.tasks
        submissions: list[Submission] = []
        for task_id, name, payload in calls:
            declared = None if unknown else tasks[name]
            options = Options() if declared is None else declared.run_options
            queue = "plain" if declared is None else declared.queue
            text = json.dumps(payload)
            submissions.append(Submission(task_id, name, queue, "normal", text, pack_options(options), "d"))
        replies = await self.broker.submit(submissions)
        assert all(reply.code == "" for reply in replies)

    async def record(self, task_id: str) -> TaskRecord:
        fields = await self.broker.redis.hgetall(self.broker.keys.task(task_id))
        record = decode_record(task_id, fields)
        assert record is not None
        return record

    async def ended(self, *ids: str, timeout: float = 30.0) -> list[TaskRecord]:
        async def all_ended() -> list[TaskRecord]:
            records = [await self.record(task_id) for task_id in ids]
            return records if all(record.state in ENDED for record in records) else []

        return await eventually(all_ended, f"the end of {len(ids)} tasks", timeout=timeout)

    async def in_state(self, task_id: str, state: State) -> TaskRecord:
        async def there() -> TaskRecord | None:
            record = await self.record(task_id)
            return record if record.state is state else None

        found = await eventually(there, f"{task_id} to be {state}", timeout=20)
        assert found is not None
        return found

    async def events(self, task_id: str) -> list[Event]:
        batches = [decode_batch(f[b"e"]) for _, f in await self.broker.redis.xrange(self.broker.keys.events)]
        return [event for batch in batches for event in batch.events if event.task_id == task_id]

    async def check_chains(self) -> None:
        """Every chain in the log is legal, every start has one end, ended once per life."""
        batches = [decode_batch(f[b"e"]) for _, f in await self.broker.redis.xrange(self.broker.keys.events)]
        states: dict[str, State | None] = {}
        for event in (event for batch in batches for event in batch.events):
            before = states.get(event.task_id)
            states[event.task_id] = fold(before, event.kind, due=event.detail.due_ms is not None)
        for task_id, state in states.items():
            assert state is (await self.record(task_id)).state

    async def says(self, words: bytes) -> bool:
        """Whether a worker's own description holds these words."""
        ids: list[bytes] = await self.broker.redis.zrange(WORKERS, 0, -1)
        texts = [await self.broker.redis.hget(worker_key(worker_id.decode()), "v") for worker_id in ids]
        return any(words in text.replace(b" ", b"") for text in texts if text)

    async def idle(self) -> None:
        """Nothing is held that nobody works on."""
        for queue in ("plain", "threads", "isolated"):
            for stream in ("high", "normal", "low", "solo"):
                assert await self.broker.redis.xlen(self.broker.keys.ready(queue, stream)) == 0


@contextlib.asynccontextmanager
async def fleet(server: ServerHandle) -> AsyncGenerator[Fleet]:
    async with await Broker.connect(server.url) as broker:
        await broker.redis.flushall()
        await broker.load()
        running = Fleet(broker, server.url)
        try:
            yield running
        finally:
            await running.stop()


def error_of(record: TaskRecord) -> dict[str, Any]:
    return json.loads(record.error or b"{}")


@in_loop
async def test_every_kind_of_task_runs_and_fails_as_it_should(server: ServerHandle) -> None:
    async with fleet(server) as f:
        await f.start()
        ids = {
            name: await f.submit(name, payload)
            for name, payload in (
                ("w.add", {"a": 1, "b": 2}),
                ("w.thread", {"seconds": 0.01}),
                ("w.isolated", {"n": 21}),
                ("w.flaky", {"times": 2}),
                ("w.permanent", {}),
                ("w.exit", {}),
                ("w.slow", {}),
                ("w.large", {}),
                ("w.odd", {}),
                ("w.segfault", {}),
                ("w.endless", {}),
                ("w.unusual", {}),
                ("w.oddprogress", {}),
                ("w.orphan", {}),
                ("w.terminated", {}),
            )
        }
        bad = await f.submit("w.add", {"a": "x", "b": 2})
        found = dict(zip([*ids, "bad"], await f.ended(*ids.values(), bad), strict=True))
        assert [found[name].result for name in ("w.add", "w.isolated", "w.flaky")] == [b"3", b"42", b"3"]
        assert found["w.thread"].state is State.SUCCEEDED
        assert found["w.oddprogress"].result == b'"unharmed"'
        assert found["w.terminated"].result == b"-15"
        expected = {
            "w.unusual": (3, "Unusual", ""),
            "w.orphan": (3, "Crashed", "SIGSEGV"),
            "w.permanent": (1, "Permanent", "no retry helps"),
            "w.exit": (3, "SystemExit", "3"),
            "w.slow": (3, "TimeLimit", "longer than its limit"),
            "w.large": (1, "result_too_large", "the limit is"),
            "w.odd": (1, "InvalidResult", "not JSON"),
            "w.segfault": (3, "Crashed", "SIGSEGV"),
            "w.endless": (3, "TimeLimit", "longer than its limit"),
            "bad": (1, "InvalidPayload", "a: Expected `int`"),
        }
        for name, (attempts, kind, words) in expected.items():
            error = error_of(found[name])
            assert found[name].state is State.DEAD, name
            assert found[name].attempt == attempts, name
            assert kind in error["type"], name
            assert words in error["message"], name
        await f.check_chains()
        await eventually(lambda: _quiet(f), "an idle system")


async def _quiet(f: Fleet) -> bool:
    try:
        await f.idle()
    except AssertionError:
        return False
    return True


@pytest.mark.slow
@in_loop
async def test_a_task_that_kills_its_runner_dies_alone(server: ServerHandle) -> None:
    """Its neighbours lose no attempt; it is charged with certainty once it runs alone."""
    async with fleet(server) as f:
        await f.start()
        neighbours = [await f.submit("w.sleep", {"seconds": 1.0}) for _ in range(5)]
        for task_id in neighbours:
            await f.in_state(task_id, State.RUNNING)
        killers = [await f.submit(name) for name in ("w.kill", "w.leave", "w.patricide")]
        dead = await f.ended(*killers, timeout=60)
        assert {record.state for record in dead} == {State.DEAD}
        assert "SIGKILL" in error_of(dead[0])["message"]
        assert "exit code 7" in error_of(dead[1])["message"]
        for record in await f.ended(*neighbours):
            assert record.state is State.SUCCEEDED
            assert record.attempt == 1, "a neighbour was charged"
        await f.check_chains()


@pytest.mark.slow
@in_loop
async def test_a_fatal_signal_leaves_its_stacks(server: ServerHandle) -> None:
    async with fleet(server) as f:
        await f.start()
        (dead,) = await f.ended(await f.submit("w.kill", {"number": int(signal.SIGABRT)}))
        assert "SIGABRT" in error_of(dead)["message"]
        assert "worker_tasks.py" in error_of(dead)["traceback"]


@pytest.mark.slow
@in_loop
async def test_code_that_holds_the_loop_is_killed_and_its_neighbours_go_on(server: ServerHandle) -> None:
    async with fleet(server) as f:
        await f.start()
        neighbours = [await f.submit("w.sleep", {"seconds": 0.5}) for _ in range(3)]
        for task_id in neighbours:
            await f.in_state(task_id, State.RUNNING)
        blocker = await f.submit("w.block")
        (record,) = await f.ended(blocker, timeout=60)
        assert (record.state, error_of(record)["type"]) == (State.DEAD, "TimeLimit")
        outcomes = [e.detail.outcome for e in await f.events(blocker) if e.kind in {Kind.RETRYING, Kind.DEAD}]
        assert outcomes == ["timeout"] * 3
        for record in await f.ended(*neighbours):
            assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
        await f.check_chains()


@in_loop
async def test_cancel_reaches_what_waits_and_what_runs(server: ServerHandle) -> None:
    async with fleet(server) as f:
        await f.start()
        running = [await f.submit("w.sleep", {"seconds": 60}), await f.submit("w.obedient")]
        for task_id in running:
            await f.in_state(task_id, State.RUNNING)
        for task_id in running:
            answer = await f.broker.cancel(task_id, "ann", "enough")
            assert answer.state == "running"
        first, second = await f.ended(*running, timeout=5)
        assert first.state is State.CANCELLED
        assert second.state is State.SUCCEEDED, "it came to its end before the process was stopped"
        kinds = [event.kind for event in await f.events(running[0])]
        assert kinds == [Kind.SUBMITTED, Kind.STARTED, Kind.ACTION, Kind.CANCELLED]


@pytest.mark.slow
@in_loop
async def test_an_unknown_name_is_parked_until_someone_knows_it(server: ServerHandle, tmp_path: Path) -> None:
    async with fleet(server) as f:
        await f.start()
        (task_id,) = await f.broker.new_ids(1)
        await f.submit_all([(task_id, "w.later", {})], unknown=True)
        parked = await f.in_state(task_id, State.PARKED)
        assert parked.attempt == 0
        (tmp_path / "later_tasks.py").write_text(
            "from taskq_core import TaskQ\napp = TaskQ()\n"
            "@app.task('w.later', queue='plain')\nasync def later() -> str:\n    return 'known now'\n"
        )
        await f.workers[0].communicate() if f.workers[0].returncode else f.workers[0].terminate()
        await f.start(module="later_tasks", cwd=tmp_path)
        (record,) = await f.ended(task_id)
        assert record.result == b'"known now"'
        await f.check_chains()


@pytest.mark.slow
@in_loop
async def test_sigterm_lets_short_tasks_finish_and_gives_long_ones_back(server: ServerHandle) -> None:
    async with fleet(server) as f:
        worker = await f.start("--grace", "1.5")
        short = await f.submit("w.sleep", {"seconds": 0.8})
        long = await f.submit("w.sleep", {"seconds": 60})
        for task_id in (short, long):
            await f.in_state(task_id, State.RUNNING)
        worker.terminate()
        assert await asyncio.wait_for(worker.wait(), 20) == 0
        assert (await f.record(short)).state is State.SUCCEEDED
        back = await f.record(long)
        assert (back.state, back.attempt) == (State.QUEUED, 0), "no attempt is burnt"
        await f.start()
        assert (await f.in_state(long, State.RUNNING)).attempt == 1
        await f.check_chains()


@in_loop
async def test_a_second_sigterm_does_not_wait(server: ServerHandle) -> None:
    async with fleet(server) as f:
        worker = await f.start("--grace", "60")
        long = await f.submit("w.sleep", {"seconds": 60})
        await f.in_state(long, State.RUNNING)
        worker.terminate()
        await eventually(lambda: f.says(b'"draining"'), "the first signal to be heard")
        worker.terminate()
        assert await asyncio.wait_for(worker.wait(), 20) == 0
        assert (await f.record(long)).state is State.QUEUED


@pytest.mark.slow
@in_loop
async def test_killed_runners_and_a_killed_worker_lose_nothing(server: ServerHandle, tmp_path: Path) -> None:
    async with fleet(server) as f:
        worker = await f.start()
        ids = await f.broker.new_ids(400)
        await f.submit_all(
            [(i, "w.mark", {"folder": str(tmp_path), "name": i, "seconds": 0.02}) for i in ids]
        )
        for _ in range(2):
            runner = await eventually(lambda: f.runners(worker), "a runner")
            runner[0].kill()
            await eventually(lambda r=runner: not r[0].is_running(), "its death")
        worker.kill()
        await worker.wait()
        await f.start()
        records = await f.ended(*ids, timeout=60)
        assert {record.state for record in records} == {State.SUCCEEDED}
        for record in records:
            tokens = (tmp_path / record.id).read_text().split()
            assert len(tokens) == len(set(tokens)), "one lease ran twice"
            assert json.loads(record.result or b"") in tokens
        await f.check_chains()


@pytest.mark.slow
@in_loop
async def test_a_worker_that_was_stopped_past_its_lease_is_fenced(
    server: ServerHandle, tmp_path: Path
) -> None:
    async with fleet(server) as f:
        sleeper = await f.start()
        task_id = await f.submit("w.mark", {"folder": str(tmp_path), "name": "m", "seconds": 1.0})
        await f.in_state(task_id, State.RUNNING)
        family = [psutil.Process(sleeper.pid), *psutil.Process(sleeper.pid).children(recursive=True)]
        for process in family:
            process.suspend()
        await f.start()
        (record,) = await f.ended(task_id, timeout=60)
        assert record.state is State.SUCCEEDED
        for process in family:
            process.resume()
        again = await f.submit("w.add", {"a": 1, "b": 1})
        await f.ended(again)
        kinds = [e.kind for e in await f.events(task_id) if e.kind not in NEUTRAL]
        assert kinds.count(Kind.SUCCEEDED) == 1
        assert Kind.RETRYING in kinds, "the first lease ran out"
        await f.check_chains()


@pytest.mark.slow
@in_loop
async def test_a_killed_server_is_met_with_patience(server: ServerHandle) -> None:
    """Acknowledged submits survive, and the workers consume again by themselves."""
    async with fleet(server) as f:
        await f.start()
        running = await f.submit("w.sleep", {"seconds": 3.0})
        await f.in_state(running, State.RUNNING)
        (task_id,) = await f.broker.new_ids(1)
        await f.submit_all([(task_id, "w.sleep", {"seconds": 0.1})])
        server.kill()
        await server.restart_async()
        canary = await f.submit("w.add", {"a": 20, "b": 22})
        for record in await f.ended(running, task_id, canary, timeout=40):
            assert record.state is State.SUCCEEDED
        await f.broker.redis.client_kill_filter(_type="normal", skipme=True)
        (record,) = await f.ended(await f.submit("w.add", {"a": 1, "b": 1}), timeout=10)
        assert record.result == b"2"
        await f.check_chains()


@in_loop
async def test_progress_is_seen_while_it_runs(server: ServerHandle, tmp_path: Path) -> None:
    async with fleet(server) as f:
        await f.start()
        task_id = await f.submit("w.progress", {"gate": str(tmp_path / "gate")})

        async def told() -> bool:
            progress = (await f.record(task_id)).progress
            return progress is not None and progress.fraction == 0.25

        await eventually(told, "the progress")
        (tmp_path / "gate").touch()
        await f.ended(task_id)


CODE = """
from taskq_core import TaskQ
app = TaskQ()
@app.task("w.version", queue="plain")
async def version() -> int:
    return {}
"""


@pytest.mark.slow
@in_loop
async def test_reload_takes_the_new_code_and_keeps_the_last_good_one(
    server: ServerHandle, tmp_path: Path
) -> None:
    async with fleet(server) as f:
        file = tmp_path / "versioned.py"
        file.write_text(CODE.format(1))
        worker = await f.start("--reload", module="versioned", cwd=tmp_path)
        assert worker.stderr is not None

        async def run() -> bytes | None:
            (task_id,) = await f.broker.new_ids(1)
            await f.submit_all([(task_id, "w.version", {})], unknown=True)
            (record,) = await f.ended(task_id)
            return record.result

        assert await run() == b"1"
        file.write_text("def broken(:\n")
        while b"SyntaxError" not in await asyncio.wait_for(worker.stderr.readline(), 20):
            pass
        assert await run() == b"1"
        file.write_text(CODE.format(22))

        async def new() -> bool:
            return await run() == b"22"

        await eventually(new, "the new code")


@pytest.mark.slow
@in_loop
async def test_wrong_starts_say_what_to_do(server: ServerHandle, tmp_path: Path) -> None:
    async with fleet(server) as f:
        (tmp_path / "empty_module.py").write_text("x = 1\n")
        (tmp_path / "broken_module.py").write_text("import not_there_at_all\n")
        for module, words in (
            ("no_such_module", "there is no such module"),
            ("empty_module", "holds no TaskQ"),
            ("services.api", "a name of taskq itself"),
            ("broken_module", "not_there_at_all"),
        ):
            worker = await f.start(module=module, cwd=tmp_path, ready=False)
            _, err = await asyncio.wait_for(worker.communicate(), 30)
            assert worker.returncode == 2, err.decode()
            assert words in err.decode()
        await f.broker.redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            worker = await f.start(ready=False)
            _, err = await asyncio.wait_for(worker.communicate(), 30)
            assert worker.returncode == 2
            assert "noeviction" in err.decode()
        finally:
            await f.broker.redis.config_set("maxmemory-policy", "noeviction")


@in_loop
async def test_a_task_in_a_queue_of_another_kind_waits_for_a_slot_of_its_own(server: ServerHandle) -> None:
    """Thread tasks sent to an async queue: no more start than there are threads, none is charged."""
    async with fleet(server) as f:
        await f.start("--concurrency", "8", "--threads", "2")
        ids = await f.broker.new_ids(30)
        payload, options = json.dumps({"seconds": 0.02}), pack_options(Options())
        await f.broker.submit(
            [Submission(i, "w.thread", "plain", "normal", payload, options, "d") for i in ids]
        )
        for record in await f.ended(*ids):
            assert (record.state, record.attempt) == (State.SUCCEEDED, 1)
        await f.check_chains()


@in_loop
async def test_equal_queues_take_turns_when_there_is_one_slot(server: ServerHandle) -> None:
    async with fleet(server) as f:
        ids = await f.broker.new_ids(40)
        await f.submit_all(
            [(i, name, {}) for i, name in zip(ids, ["w.left"] * 20 + ["w.right"] * 20, strict=True)]
        )
        await f.start("--concurrency", "1")
        await f.ended(*ids)
        batches = [decode_batch(x[b"e"]) for _, x in await f.broker.redis.xrange(f.broker.keys.events)]
        started = [e.detail.name for b in batches for e in b.events if e.kind is Kind.STARTED]
        ahead = [started[:n].count("w.left") - started[:n].count("w.right") for n in range(len(started) + 1)]
        assert max(map(abs, ahead)) <= 2, started


@in_loop
async def test_a_full_server_is_drained_by_a_worker_that_starts_then(server: ServerHandle) -> None:
    async with fleet(server) as f:
        ids = [await f.submit("w.add", {"a": 1, "b": 1}) for _ in range(5)]
        await f.broker.redis.config_set("maxmemory", "1mb")
        try:
            await f.start()
            for record in await f.ended(*ids):
                assert record.state is State.SUCCEEDED
        finally:
            await f.broker.redis.config_set("maxmemory", "0")
