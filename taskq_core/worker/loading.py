"""Finding the tasks that a worker is to run: importing the user's modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from taskq_core.errors import ConfigError
from taskq_core.tasks import Registry, Task

__all__ = ["load_tasks", "user_files"]

# A module of the user must not stand in for one of ours.
RESERVED = frozenset({"taskq_core", "services", "tui", "panel_app", "notebooks"})
OWN_MODULES = frozenset({"services.tasks", "services.tasks.register"})


def load_tasks(modules: Iterable[str]) -> dict[str, Task[..., Any]]:
    """Import the modules and gather the tasks of every TaskQ in them. Raises ConfigError."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    tasks: dict[str, Task[..., Any]] = {}
    for name in modules:
        for app in _apps_of(name):
            for task in app.tasks.values():
                other = tasks.get(task.name)
                if other is not None and other.fn is not task.fn:
                    message = f"--import {name}: the task {task.name!r} is declared in {other.module} too"
                    raise ConfigError(message)
                tasks[task.name] = task
    return tasks


def _apps_of(name: str) -> list[Registry]:
    top = name.partition(".")[0]
    if top in RESERVED and name not in OWN_MODULES:
        message = f"--import {name}: {top!r} is a name of taskq itself; rename the module"
        raise ConfigError(message)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            message = f"--import {name}: there is no such module in {Path.cwd()} or among the installed ones"
            raise ConfigError(message) from error
        raise
    apps = [value for value in vars(module).values() if isinstance(value, Registry)]
    if not apps:
        message = f"--import {name}: the module holds no TaskQ; add `app = TaskQ()` and declare tasks on it"
        raise ConfigError(message)
    return list(dict.fromkeys(apps))


def user_files(folder: Path) -> list[Path]:
    """Source files of imported modules below a folder: what `--reload` watches."""
    files: list[Path] = []
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and path.endswith(".py"):
            file = Path(path)
            if file.is_relative_to(folder) and ".venv" not in file.parts:
                files.append(file)
    return files
