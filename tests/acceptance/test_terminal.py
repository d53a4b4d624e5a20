"""`taskq up` in a real terminal: keys, Ctrl-C, and what is left afterwards."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Generator
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.acceptance.running import Up, command, environment
from tests.support.wait import eventually_sync


class Terminal:
    """A process in the foreground of a pseudo terminal, as its user sees it."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self._master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.text = ""
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=cwd,
            env=environment({"TERM": "xterm", "COLUMNS": "200"}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  # pytest has no threads that matter here
        )

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def awaits(self, words: str, timeout: float = 60.0) -> None:
        """Wait until it printed these words."""

        def printed() -> bool:
            self._read()
            return words in self.text

        eventually_sync(printed, f"{words!r} in the terminal", timeout=timeout)

    def wait(self, timeout: float = 40.0) -> int:
        """Wait for its end, reading on; answers the exit code."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read()
        return self.process.wait(0.1)

    def _read(self) -> None:
        while select.select([self._master], [], [], 0.02)[0]:
            try:
                self.text += os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                return

    @property
    def settings(self) -> list[object]:
        """The terminal's modes now."""
        return termios.tcgetattr(self._slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


def _take_terminal() -> None:
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(tmp_path: Path) -> Generator[Terminal]:
    with Terminal("up", "--data", str(tmp_path / "data"), "--port", "0", cwd=tmp_path) as running:
        running.awaits("taskq is ready", timeout=90)
        yield running


def family(terminal: Terminal) -> list[psutil.Process]:
    up = psutil.Process(terminal.process.pid)
    return [up, *up.children(recursive=True)]


def none_left(processes: list[psutil.Process]) -> None:
    eventually_sync(
        lambda: not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE],
        "no process to be left",
    )


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_the_data_survives(terminal: Terminal, tmp_path: Path) -> None:
    processes = family(terminal)
    assert len(processes) >= 6
    data = str(tmp_path / "data")
    done = subprocess.run(
        command("submit", "demo.echo", "kept=true", "--wait", "--data", data),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    task_id = done.stderr.strip()
    terminal.press("\x03")
    assert terminal.wait() == 0
    none_left(processes)
    assert terminal.settings == terminal.before, "the terminal is as it was"
    assert "Traceback" not in terminal.text

    up = Up(tmp_path / "data").start()
    try:
        assert up.task(task_id)["result"] == {"kept": True}
        assert up.stop() == 0
    finally:
        up.close()


@pytest.mark.slow
def test_keys_kill_a_runner_turn_on_the_demo_and_quit(terminal: Terminal) -> None:
    terminal.press("d")
    terminal.awaits("demo load on")
    terminal.press("k")
    terminal.awaits("killed runner")
    killed = re.search(r"killed runner (\d+)", terminal.text)
    assert killed is not None
    terminal.press("d")
    terminal.awaits("demo load off")
    processes = family(terminal)
    terminal.press("q")
    assert terminal.wait() == 0
    none_left(processes)
    assert terminal.settings == terminal.before


@pytest.mark.slow
def test_ctrl_c_during_the_first_start_leaves_nothing(tmp_path: Path) -> None:
    with Terminal("up", "--data", str(tmp_path / "data"), "--port", "0", cwd=tmp_path) as terminal:
        terminal.awaits("setting up the database")
        eventually_sync(lambda: len(family(terminal)) > 2, "something to be started")
        processes = family(terminal)
        terminal.press("\x03")
        assert terminal.wait() == 0
        none_left(processes)
        assert "Traceback" not in terminal.text
    up = Up(tmp_path / "data").start()
    try:
        assert up.stop() == 0
    finally:
        up.close()


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(terminal: Terminal, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    subprocess.run(
        command("submit", "demo.sleep", "seconds=600", "--data", data), env=environment(), check=True
    )
    processes = family(terminal)
    started = time.monotonic()
    terminal.press("\x03")
    terminal.awaits("stopping")
    terminal.press("\x03")
    assert terminal.wait() == 0
    assert time.monotonic() - started < 8
    none_left(processes)
