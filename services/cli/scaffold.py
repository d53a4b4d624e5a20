"""`taskq new NAME`: a file with a task, and its test."""

from __future__ import annotations

import keyword
import shlex
from pathlib import Path
from typing import Annotated

import typer

from services.called import called_as
from services.cli.show import print_line
from taskq_core.errors import ConfigError

__all__ = ["add_to"]

_TASK = '''"""Tasks of {module}."""

from taskq_core import TaskQ

app = TaskQ()


@app.task("{name}", queue="{queue}")
async def {function}(text: str = "hello") -> dict[str, str]:
    """Say what it does: this line is shown wherever tasks are listed."""
    return {{"text": text.upper()}}
'''

_TEST = '''"""The task {name}, called as the plain function that it is."""

import asyncio

from {module} import {function}


def test_{function}() -> None:
    assert asyncio.run({function}("hello")) == {{"text": "HELLO"}}
'''


def new(name: Annotated[str, typer.Argument(help="Name of the task, like photos.thumbnail.")]) -> None:
    """Write a file with a task and a file with its test into this folder."""
    from taskq_core.model.task import check_name

    check_name(name)
    parts = [part.replace("-", "_") for part in name.split(".")]
    module, function = parts[0], parts[-1]
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in (module, function)):
        raise ConfigError(f"{name!r} makes no Python names; write words like photos.thumbnail")
    words = {"name": name, "module": module, "function": function, "queue": module.replace("_", "-").lower()}
    files = {Path(f"{module}.py"): _TASK, Path(f"test_{module}.py"): _TEST}
    for file in files:
        if file.exists():
            raise ConfigError(f"{file} exists; choose another name, or add the task there")
    for file, text in files.items():
        file.write_text(text.format(**words), encoding="utf-8")
        print_line(f"wrote {file}")
    print_line(f"run it: {called_as(Path.cwd())} up --import {shlex.quote(module)} --reload")


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command()(new)
