"""taskq: a distributed task queue. Redis Streams carry the work, Postgres keeps the whole history.

::

    from taskq_core import TaskQ

    app = TaskQ()

    @app.task("photos.thumbnail")
    async def thumbnail(source: str, width: int) -> dict: ...

    task = await thumbnail.submit(source="cat.jpg", width=256)
    result = await task.result(timeout=30)

The names below are the public ones. Those that pull in a server's client are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from taskq_core.errors import (
    ConfigError,
    InvalidOption,
    InvalidPayload,
    Permanent,
    Refused,
    TaskCancelled,
    TaskDead,
    TaskqError,
    Unavailable,
    UnknownTask,
)
from taskq_core.model.retry import Retry

if TYPE_CHECKING:
    from taskq_core.app import TaskQ
    from taskq_core.client import Client
    from taskq_core.context import Current, current
    from taskq_core.handle import TaskHandle
    from taskq_core.tasks import Task

__version__ = "0.1.0"

__all__ = [
    "Client",
    "ConfigError",
    "Current",
    "InvalidOption",
    "InvalidPayload",
    "Permanent",
    "Refused",
    "Retry",
    "Task",
    "TaskCancelled",
    "TaskDead",
    "TaskHandle",
    "TaskQ",
    "TaskqError",
    "Unavailable",
    "UnknownTask",
    "__version__",
    "current",
]

_LAZY = {
    "Client": "taskq_core.client",
    "Current": "taskq_core.context",
    "Task": "taskq_core.tasks",
    "TaskHandle": "taskq_core.handle",
    "TaskQ": "taskq_core.app",
    "current": "taskq_core.context",
}


def __getattr__(name: str) -> Any:
    home = _LAZY.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
