"""Task ids: UUID version 7 whose `rand_a` field carries the shard.

Layout (RFC 9562, section 5.7), most significant first: 48 bits of server milliseconds, 4 bits version,
12 bits shard, 2 bits variant, 62 random bits. An id therefore tells where its keys live and when it was
made, and a range of time is a range of ids.
"""

from __future__ import annotations

import os
import re

from taskq_core.errors import NotFound

__all__ = ["MAX_SHARD", "check_id", "first_id_at", "new_id", "new_ids", "shard_of", "time_ms"]

MAX_SHARD = 0xFFF
_VERSION = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM = (1 << 62) - 1
_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def _text(value: int) -> str:
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def new_id(ms: int, shard: int = 0) -> str:
    """One new id for a moment in server milliseconds."""
    return _text(ms << 80 | _VERSION | shard << 64 | _VARIANT | int.from_bytes(os.urandom(8)) & _RANDOM)


def new_ids(count: int, ms: int, shard: int = 0) -> list[str]:
    """Many new ids of one moment, with one read of the random source."""
    noise = os.urandom(8 * count)
    fixed = ms << 80 | _VERSION | shard << 64 | _VARIANT
    return [_text(fixed | int.from_bytes(noise[at : at + 8]) & _RANDOM) for at in range(0, 8 * count, 8)]


def first_id_at(ms: int) -> str:
    """The smallest id of a moment: the lower bound of a time range."""
    return _text(ms << 80 | _VERSION | _VARIANT)


def time_ms(task_id: str) -> int:
    """The server milliseconds that the id carries."""
    return int(task_id[:8] + task_id[9:13], 16)


def shard_of(task_id: str) -> int:
    """The shard that the id carries."""
    return int(task_id[15:18], 16)


def check_id(text: str) -> str:
    """The canonical id. Raises NotFound when the text cannot be an id of ours."""
    lower = text.strip().lower()
    if not _FORM.fullmatch(lower):
        message = f"{text[:60]!r} is not a task id"
        raise NotFound(message)
    return lower
