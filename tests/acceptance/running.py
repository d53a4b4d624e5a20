"""The real `taskq up`, as a user starts it, and what a test needs to drive it and to hurt it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.automaton import Report, audit
from tests.support.wait import eventually_sync

CHECKOUT = Path(__file__).parents[2]
START_S = 90.0
STOP_S = 40.0
ENDED = ("succeeded", "dead", "cancelled")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without settings of taskq, so that tests do not depend on the shell they run in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKQ_")}
    path = os.pathsep.join([str(CHECKOUT), *filter(None, [kept.get("PYTHONPATH")])])
    return kept | {"PYTHONPATH": path} | dict(extra or {})


def command(*arguments: str) -> list[str]:
    """`taskq …` by the interpreter that runs the tests."""
    return [sys.executable, "-P", "-m", "services.cli", *arguments]


def taskq(
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one verb to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=timeout,
        input=stdin,
        check=False,
    )


class Up:
    """One `taskq up` over a data folder; `start` it, and `stop` or `kill_all` it."""

    def __init__(
        self,
        data: Path,
        *flags: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.data = data
        self.cwd = cwd or data.parent
        self._flags = flags
        self._env = environment(env)
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[int, psutil.Process] = {}
        self.out = data.parent / f"{data.name}.out"
        self.err = data.parent / f"{data.name}.err"
        self.info: dict[str, Any] = {}
        self.seconds = 0.0
        self.http = httpx.Client(trust_env=False, timeout=30.0)

    # --- life

    def start(self) -> Up:
        """Start it and wait until it says that it is ready."""
        started = time.monotonic()
        with self.out.open("wb") as out, self.err.open("ab") as err:
            self._process = subprocess.Popen(
                command("up", "--data", str(self.data), "--port", "0", *self._flags),
                cwd=self.cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        eventually_sync(self._is_ready, "taskq up to be ready", timeout=START_S)
        self.seconds = time.monotonic() - started
        self.info = json.loads((self.data / "up.json").read_text())
        if self.info["token_file"]:
            self.http.headers["Authorization"] = f"Bearer {Path(self.info['token_file']).read_text().strip()}"
        self.remember()
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"taskq up ended: {self.err.read_text()}"
        return "taskq is ready" in self.out.read_text()

    @property
    def pid(self) -> int:
        """Of `taskq up` itself."""
        assert self._process is not None
        return self._process.pid

    def remember(self) -> list[psutil.Process]:
        """All processes of this system, now; they are kept in mind for `gone`."""
        up = psutil.Process(self.pid)
        found = [up, *up.children(recursive=True)]
        self._known |= {process.pid: process for process in found}
        return found

    def stop(self, number: signal.Signals = signal.SIGINT, *, timeout: float = STOP_S) -> int:
        """Send a signal and wait for the end; answers the exit code. Fails if a process is left."""
        assert self._process is not None
        if self._process.poll() is None:
            self.remember()
            self._process.send_signal(number)
        code = self._process.wait(timeout)
        self.await_gone()
        return code

    def kill_up(self) -> list[psutil.Process]:
        """SIGKILL for `taskq up` alone; answers what it leaves behind."""
        assert self._process is not None
        _, *orphans = self.remember()
        self._process.kill()
        self._process.wait(STOP_S)
        return orphans

    def kill_all(self) -> None:
        """SIGKILL for everything at once, as a machine that loses its power."""
        for process in self.remember():
            process.suspend()
        for process in self.remember():
            process.kill()
        assert self._process is not None
        self._process.wait(STOP_S)
        self.await_gone()

    def await_gone(self) -> None:
        """Fails unless every process that was ever seen is gone soon."""
        eventually_sync(lambda: not self.left(), f"no process to be left of {self._names()}", timeout=20)
        self._known.clear()

    def left(self) -> list[psutil.Process]:
        """Processes of this system that still run."""
        return [process for process in self._known.values() if _lives(process)]

    def _names(self) -> list[str]:
        return [f"{process.pid} {_title(process)}" for process in self.left()]

    def close(self) -> None:
        """End it whatever a test did to it."""
        if self._process is not None and self._process.poll() is None:
            self.remember()
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        for process in self.left():
            process.kill()
        self.http.close()

    # --- its processes

    def processes(self, title: str) -> list[psutil.Process]:
        """Its processes whose title begins so, like `taskq runner`."""
        return [process for process in self.remember() if _title(process).startswith(title)]

    def process(self, title: str) -> psutil.Process:
        """Its one process of this title."""
        return eventually_sync(lambda: self.processes(title), f"a process {title}")[0]

    # --- its API

    @property
    def api(self) -> str:
        """Base address."""
        return self.info["api"]

    @property
    def redis_url(self) -> str:
        """Of its Redis."""
        return self.info["redis_url"]

    @property
    def database_url(self) -> str:
        """Of its history."""
        return self.info["database_url"]

    def submit(self, name: str, payload: Mapping[str, Any] | None = None, **options: Any) -> str:
        """POST a task; answers its id."""
        body = {"name": name, "payload": payload or {}, **options}
        reply = self.http.post(f"{self.api}/api/tasks", json=body)
        assert reply.status_code == 202, reply.text
        return reply.json()["id"]

    def submit_many(self, tasks: Sequence[Mapping[str, Any]]) -> list[str]:
        """POST a batch; answers the ids."""
        reply = self.http.post(f"{self.api}/api/tasks/batch", json={"tasks": list(tasks)})
        assert reply.status_code == 202, reply.text
        assert not reply.json()["errors"], reply.text
        return reply.json()["ids"]

    def get(self, path: str, **query: Any) -> Any:
        """GET a view."""
        reply = self.http.get(f"{self.api}{path}", params=query)
        assert reply.status_code == 200, f"{path}: {reply.status_code} {reply.text}"
        return reply.json()

    def task(self, task_id: str) -> dict[str, Any]:
        """The task's view."""
        return self.get(f"/api/tasks/{task_id}")

    def events(self, task_id: str) -> list[dict[str, Any]]:
        """The task's events."""
        return self.get(f"/api/tasks/{task_id}/events", limit=500)["events"]

    def ended(self, task_id: str, timeout: float = 30.0) -> dict[str, Any]:
        """The task's view once it has ended."""
        eventually_sync(
            lambda: self.task(task_id)["state"] in ENDED,
            f"task {task_id} to end",
            timeout=timeout,
            every=0.05,
        )
        return self.task(task_id)

    def overview(self) -> dict[str, Any]:
        """The overview."""
        return self.get("/api/overview")

    def await_quiet(self, timeout: float = 60.0) -> None:
        """Wait until nothing lives any more and the history has everything."""

        def quiet() -> bool:
            view = self.overview()
            return view["ledger"]["live"] == 0 and view["relay"]["backlog"] == 0

        eventually_sync(
            quiet, "all tasks to end and the relay to carry everything", timeout=timeout, every=0.2
        )

    def audit(self, accepted: Sequence[str] = (), *, all_ended: bool = True) -> Report:
        """Judge everything that happened; fails at a fault."""
        report = audit(self.redis_url, self.database_url, accepted, all_ended=all_ended)
        report.check()
        return report

    def taskq(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a verb on this system, as from a second terminal."""
        return taskq(*arguments, "--data", str(self.data), cwd=self.cwd, **more)

    @property
    def card(self) -> str:
        """What it printed on stdout."""
        return self.out.read_text()

    def card_line(self, label: str) -> str:
        """What stands behind a label of the card."""
        lines = [line.strip() for line in self.card.splitlines()]
        (line,) = [line for line in lines if line.startswith(label + " ")]
        return line.removeprefix(label).strip()


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What a person gets who pastes a line into a shell."""
    return subprocess.run(
        ["sh", "-c", line],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def quoted(path: Path) -> str:
    """A path for a shell."""
    return shlex.quote(str(path))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""
