"""`--import` and `--reload`: the user's own tasks, while they are being written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.running import Up, shell, taskq
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
def test_a_module_that_does_not_exist_is_refused_at_once(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    done = taskq("up", "--data", data, "--port", "0", "--import", "no_such_module_here", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no such module" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "data" / "up.json").exists()


@pytest.mark.slow
def test_the_example_runs_without_keys(start_up: StartUp) -> None:
    up = start_up("data", "--no-auth", "--import", "examples.hello")
    assert up.info["token_file"] is None
    assert up.ended(up.submit("hello", {"name": "you"}))["result"] == "hello, you"
    done = shell(up.card_line("try it"), up.cwd)
    assert up.ended(json.loads(done.stdout)["id"])["state"] == "succeeded"
    assert "Authorization" not in up.card
