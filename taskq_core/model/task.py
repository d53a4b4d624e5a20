"""A task on its way in: what a caller asks for, and what the broker is handed."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from taskq_core.errors import InvalidOption
from taskq_core.model.retry import Retry

__all__ = [
    "MAX_DELAY_S",
    "Options",
    "Priority",
    "Submission",
    "check_queue",
    "pack_options",
    "unpack_options",
]

MAX_DELAY_S = 90 * 86_400
MAX_UNIQUE_KEY = 200
_QUEUE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Priority(StrEnum):
    """Strict: nothing lower starts while something higher waits in the queues of a runner."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Options(msgspec.Struct, frozen=True, array_like=True):
    """How a task is to be run; kept as a JSON list, which the functions read too. Keep the order."""

    max_attempts: int = 4
    base: float = 1.0
    factor: float = 2.0
    cap: float = 3600.0
    jitter: float = 0.0
    timeout: float | None = None  # seconds of one attempt; None: no limit
    result_ttl: float = 300.0  # seconds that a finished task stays in Redis

    @property
    def retry(self) -> Retry:
        """The retry policy among the options."""
        return Retry(
            max_attempts=self.max_attempts,
            base=self.base,
            factor=self.factor,
            cap=self.cap,
            jitter=self.jitter,
        )


class Submission(msgspec.Struct, frozen=True, array_like=True):
    """One task as `submit` takes it; all checks are behind it."""

    id: str
    name: str
    queue: str
    priority: str
    payload: str  # raw JSON
    options: str  # packed Options
    digest: str
    due_ms: int = 0  # 0: ready at once
    delay_ms: int = 0  # relative form of due_ms, added to the server's time
    unique_key: str = ""
    metadata: str = ""  # raw JSON object
    trace: str = ""


_pack = msgspec.json.Encoder()
_unpack = msgspec.json.Decoder(Options)


def pack_options(options: Options) -> str:
    """The text that the task hash keeps."""
    return _pack.encode(options).decode()


def unpack_options(packed: bytes | str) -> Options:
    """The inverse of `pack_options`."""
    return _unpack.decode(packed)


def check_queue(name: str) -> str:
    """The queue name itself. Raises InvalidOption when it could forge a key."""
    if not _QUEUE.fullmatch(name):
        message = f"queue {name[:70]!r}: use 1 to 64 of a-z 0-9 . _ - and begin with a letter or a digit"
        raise InvalidOption(message)
    return name


def check_name(name: str) -> str:
    """The task name itself. Raises InvalidOption when it is no name."""
    if not _NAME.fullmatch(name):
        message = f"task name {name[:70]!r}: use 1 to 128 of A-Z a-z 0-9 . _ -"
        raise InvalidOption(message)
    return name
