"""`--import` and `--reload`: the user's own tasks, while they are being written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.running import Up
from tests.support.wait import eventually_sync

type StartUp = Callable[..., Up]

TASK = """
from taskq_core import TaskQ

app = TaskQ()


@app.task("mine.value")
async def value() -> int:
    return {value}
"""


@pytest.mark.slow
def test_broken_code_keeps_the_last_good_worker(start_up: StartUp, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(TASK.format(value=1))
    up = start_up("data", "--import", "mine", "--reload")
    assert _value(up) == 1

    file.write_text("this is no Python\n")
    eventually_sync(lambda: "cannot be loaded" in up.err.read_text(), "the fault to be told", timeout=20)
    assert _value(up) == 1

    file.write_text(TASK.format(value=2))
    eventually_sync(lambda: _value(up) == 2, "the new code to run", timeout=20)
    up.audit()


def _value(up: Up) -> int:
    return up.ended(up.submit("mine.value"))["result"]


@pytest.mark.slow
def test_a_module_that_does_not_exist_is_said_aloud(tmp_path: Path) -> None:
    up = Up(tmp_path / "data", "--import", "no_such_module_here")
    try:
        with pytest.raises(AssertionError, match="to be ready"):
            _start_within(up, 8)
        assert "there is no such module" in up.err.read_text()
    finally:
        up.close()


def _start_within(up: Up, seconds: float) -> None:
    from tests.acceptance import running

    usual, running.START_S = running.START_S, seconds
    try:
        up.start()
    finally:
        running.START_S = usual
