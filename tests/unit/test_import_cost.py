"""Declaring tasks needs no server's client library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

DECLARE = """
from taskq_core import TaskQ, Retry, Permanent, TaskDead
app = TaskQ()
@app.task("a.b", retry=Retry())
async def task(a: int) -> int: ...
"""


@pytest.mark.parametrize("library", ["redis", "psycopg", "jsonschema_rs", "hiredis", "uvloop", "tornado"])
def test_declaring_imports_no(library: str) -> None:
    code = f"{DECLARE}\nimport sys; assert {library!r} not in sys.modules, {library!r}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_public_name_is_there() -> None:
    code = "import taskq_core as t; [getattr(t, name) for name in t.__all__]; assert dir(t) == t.__all__"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
