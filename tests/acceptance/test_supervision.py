"""How `taskq up` keeps its roles running, and what it shows of what they say."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from services.up import output as outputs
from services.up import supervise
from services.up.output import Output, readable
from services.up.process import Lifeline, Role, RoleProcess
from tests.support.loop import in_loop
from tests.support.wait import eventually


def role(program: str) -> Role:
    """A role that runs a line of Python."""
    return Role("test", [sys.executable, "-c", program], dict(os.environ))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for."""
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(supervise, "LONGEST_PAUSE_S", 0.05)


@pytest.mark.usefixtures("quick")
def test_a_role_that_cannot_stay_up_is_said_aloud(tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        said: list[str] = []
        lifeline = Lifeline()
        process = RoleProcess(
            role("import sys; sys.exit('taskq: no luck today')"), lifeline, tmp_path / "log"
        )
        process.start()
        keeping = asyncio.create_task(supervise.Keeper(process, said.append).run())
        try:
            await eventually(lambda: any("cannot stay up" in line for line in said), "the word", timeout=30)
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
            process.kill()
            lifeline.close()
        assert "test ended (exit code 1); restarting" in said
        assert "test cannot stay up: no luck today" in said

    run()


@pytest.mark.usefixtures("quick")
def test_a_killed_role_starts_again_and_is_ready_anew(tmp_path: Path) -> None:
    @in_loop
    async def run() -> None:
        said: list[str] = []
        lifeline = Lifeline()
        program = 'import sys, time; print(\'{"ready": "test"}\', flush=True); time.sleep(600)'
        process = RoleProcess(role(program), lifeline, tmp_path / "log")
        process.start()
        keeping = asyncio.create_task(supervise.Keeper(process, said.append).run())
        try:
            await eventually(lambda: process.output.ready, "the role to be ready")
            first = process.pid
            process.kill()
            await eventually(lambda: process.pid != first and process.output.ready, "it to be ready anew")
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
            process.kill()
            lifeline.close()
        assert said == ["test ended (SIGKILL); restarting"]

    run()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b'{"at": "x", "level": "info", "role": "r", "message": "routine"}', ""),
        (
            b'{"at": "x", "level": "warning", "role": "r", "message": "look\\u001b[2J"}',
            "warning: look\\x1b[2J",
        ),
        (b'{"ready": "api", "port": 1}', ""),
        (b"printed by a task", "printed by a task"),
        (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        (b'{"a": 1}', '{"a": 1}'),
        (b"\xff\xfe", "��"),
        (b"taskq: a setting is wrong", "a setting is wrong"),
    ],
)
def test_what_the_terminal_shows_of_a_line(line: bytes, shown: str) -> None:
    assert readable(line) == shown


def test_a_log_is_turned_over_and_followed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "LOG_BYTES", 100)
    output = Output("role", tmp_path / "role.log")
    with output.open() as file:
        for number in range(30):
            file.write(f"line {number}\n".encode())
            file.flush()
            assert list(output.news()) == [f"role: line {number}"]
    assert (tmp_path / "role.log.1").exists()
    assert (tmp_path / "role.log").stat().st_size < 200
    assert output.last_words() == "line 29" or not (tmp_path / "role.log").stat().st_size
