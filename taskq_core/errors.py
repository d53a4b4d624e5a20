"""Every error that taskq raises, in one tree.

::

    TaskqError
    ├── ConfigError            a setting, an argument or a file is wrong (exit 2)
    │   ├── DataFolderError    the data folder is broken, foreign or newer
    │   ├── AlreadyRunning     another process holds this data folder, or a port
    │   └── ServerMissing      no usable Redis/Valkey or PostgreSQL was found
    ├── Refused                the request can never succeed as it stands
    │   ├── InvalidJson        not JSON, or JSON that the history could not keep
    │   ├── UnknownTask        no declaration and no catalog entry has this name
    │   ├── InvalidPayload     the arguments do not fit the task's schema
    │   ├── InvalidOption      an option is unknown or out of bounds
    │   ├── TooLarge           a payload, body or batch is over its limit
    │   ├── TooLate            the id is too old to be submitted for the first time
    │   ├── IdClock            the id lies in the future of the server's clock
    │   ├── NotFound           no task, file or route of this name
    │   ├── Conflict           the same key with another content, or a state that forbids it
    │   │   └── UniqueTaken    the unique key belongs to another task
    │   ├── Unauthenticated    no key, or a key that is not valid
    │   ├── Forbidden          the key lacks the scope
    │   └── PayloadNotKept     the raw payload is no longer stored
    ├── Unavailable            try again later
    │   ├── Full               memory or backlog is over its soft limit
    │   ├── BrokerNotInitialised   the function library is missing and may not be loaded
    │   └── HistoryBehind      the history has not reached this moment yet
    ├── TaskDead               the awaited task ended in the dead letters
    ├── TaskCancelled          the awaited task was cancelled
    └── Permanent              raised by user code: fail now, do not retry

``code`` is stable: REST, Lua replies, logs and exit texts use the same word.
"""

from __future__ import annotations

from typing import ClassVar


class TaskqError(Exception):
    """Root of the tree. The message is one line that says what to do."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class ConfigError(TaskqError):
    """A setting is wrong."""

    code = "config"


class DataFolderError(ConfigError):
    """The data folder cannot be used."""

    code = "data_folder"


class AlreadyRunning(ConfigError):
    """Something already runs here."""

    code = "already_running"


class ServerMissing(ConfigError):
    """A server that taskq needs was not found."""

    code = "server_missing"


class Refused(TaskqError):
    """The request cannot succeed as it stands."""

    code = "refused"


class InvalidJson(Refused):
    """The text is not JSON that taskq can keep."""

    code = "invalid_json"


class UnknownTask(Refused):
    """No task of this name is registered."""

    code = "unknown_task"


class InvalidPayload(Refused):
    """The arguments do not fit the task."""

    code = "invalid_payload"


class InvalidOption(Refused):
    """An option is unknown or out of bounds."""

    code = "invalid_option"


class TooLarge(Refused):
    """It is over its limit."""

    code = "too_large"


class TooLate(Refused):
    """The id is too old to be submitted for the first time."""

    code = "too_late"


class IdClock(Refused):
    """The id lies in the future of the server's clock."""

    code = "id_clock"


class NotFound(Refused):
    """There is no such thing."""

    code = "not_found"


class Conflict(Refused):
    """The request contradicts what is stored."""

    code = "conflict"


class UniqueTaken(Conflict):
    """The unique key belongs to another task."""

    code = "unique_taken"


class Unauthenticated(Refused):
    """A valid key is needed."""

    code = "unauthenticated"


class Forbidden(Refused):
    """The key lacks the scope for this."""

    code = "forbidden"


class PayloadNotKept(Refused):
    """The raw payload is no longer stored."""

    code = "payload_not_kept"


class Unavailable(TaskqError):
    """A server is away; try again."""

    code = "unavailable"


class Full(Unavailable):
    """The system takes no new tasks now; try again later."""

    code = "full"


class BrokerNotInitialised(Unavailable):
    """The function library is missing on the server; run `taskq migrate`."""

    code = "broker_not_initialised"


class HistoryBehind(Unavailable):
    """The history has not reached this moment yet; try again."""

    code = "history_behind"


class TaskDead(TaskqError):
    """The task ended in the dead letters."""

    code = "dead"

    def __init__(self, task_id: str, error: dict[str, object] | None = None) -> None:
        self.task_id = task_id
        self.error = error
        what = f"{error.get('type')}: {error.get('message')}" if error else "no reason kept"
        super().__init__(f"task {task_id} is dead: {what}")


class TaskCancelled(TaskqError):
    """The task was cancelled."""

    code = "cancelled"

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        super().__init__(f"task {task_id} was cancelled")


class Permanent(TaskqError):
    """Raised by a task: it failed for good, a retry would not help."""

    code = "permanent"
