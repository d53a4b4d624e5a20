"""The event stream as the relay reads it: a durable consumer group with one consumer of a stable name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from redis.exceptions import RedisError, ResponseError

from taskq_core.broker.keys import AUDIT_GROUP, ShardKeys
from taskq_core.broker.redis import make_redis
from taskq_core.errors import Unavailable

__all__ = ["StreamSource"]

CONSUMER = "relay"  # stable: whoever comes next finds what the last one left pending
MOST_AT_ONCE = 512  # entries in one answer
FIRST_GUESS = 32 << 10  # bytes of an entry, before any was seen

type Entry = tuple[int, int, bytes | None]


class Functions(Protocol):
    """What of the broker this needs."""

    url: str
    keys: ShardKeys

    async def forget(self, ended: Sequence[tuple[str, int]]) -> int:
        """Let the hashes of ended tasks expire."""
        ...

    async def trim(self) -> int:
        """Drop what every group has acknowledged."""
        ...


class StreamSource:
    """One shard's events. Every method raises Unavailable when Redis is away.

    An answer cannot be bounded in bytes, so the number of entries asked for follows their size.
    """

    def __init__(self, broker: Functions) -> None:
        self._broker = broker
        self._keys = broker.keys
        # Longer than any wait of `fresh`, or the wait itself would look like an outage.
        self._redis = make_redis(broker.url, timeout=10.0, name="taskq-relay")
        self._entry_bytes = FIRST_GUESS

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()

    @property
    def shard(self) -> int:
        """Number of the shard."""
        return self._keys.shard

    async def incarnation(self) -> int:
        """How often the shard has begun anew; 1 at first. Makes the group where it is missing."""
        try:
            await self._command("XGROUP", "CREATE", self._keys.events, AUDIT_GROUP, "0", "MKSTREAM")
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise Unavailable(str(error)) from error
        await self._command("HSETNX", self._keys.meta, "incarnation", 1)
        return int(await self._command("HGET", self._keys.meta, "incarnation"))

    async def raise_incarnation(self, to: int) -> None:
        """Begin anew."""
        await self._command("HSET", self._keys.meta, "incarnation", to)

    async def pending(self, after: tuple[int, int], limit: int) -> list[Entry]:
        """Entries delivered and not acknowledged, after an id; about `limit` bytes."""
        return await self._read(f"{after[0]}-{after[1]}", limit)

    async def fresh(self, wait_s: float, limit: int) -> list[Entry]:
        """Entries never delivered; waits so long for the first."""
        return await self._read(">", limit, block_ms=max(1, int(wait_s * 1000)))

    async def ack(self, ids: Sequence[tuple[int, int]]) -> None:
        """These entries are committed."""
        texts = [f"{ms}-{seq}" for ms, seq in ids]
        for start in range(0, len(texts), 1000):
            await self._safe("XACK", self._keys.events, AUDIT_GROUP, *texts[start : start + 1000])

    async def forget(self, ended: Sequence[tuple[str, int]]) -> None:
        """The history holds the end of these tasks."""
        try:
            await self._broker.forget(ended)
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis: {error}") from error

    async def trim(self) -> int:
        """Drop what every reader has."""
        try:
            return await self._broker.trim()
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis: {error}") from error

    async def head(self) -> tuple[int, int]:
        """(number of the newest event, server milliseconds)."""
        n = await self._safe("HGET", self._keys.meta, "n")
        seconds, micros = await self._safe("TIME")
        return int(n or 0), int(seconds) * 1000 + int(micros) // 1000

    async def end(self) -> tuple[int, int]:
        """The id of the newest entry ever written."""
        flat = cast("list[Any]", await self._safe("XINFO", "STREAM", self._keys.events))
        return _id(flat[flat.index(b"last-generated-id") + 1])

    async def lacks(self, place: tuple[int, int]) -> bool:
        """Whether the entry of this id is missing although older ones stand."""
        key, entry = self._keys.events, f"{place[0]}-{place[1]}"
        older = await self._safe("XRANGE", key, "-", f"({entry}", "COUNT", 1)
        return bool(older) and not await self._safe("XRANGE", key, entry, entry)

    async def next_ms(self, after: tuple[int, int]) -> int | None:
        """When the first entry after an id was written."""
        found = await self._safe("XRANGE", self._keys.events, f"({after[0]}-{after[1]}", "+", "COUNT", 1)
        return _id(found[0][0])[0] if found else None

    # -- reading ----------------------------------------------------------------------------------------

    async def _read(self, start: str, limit: int, block_ms: int = 0) -> list[Entry]:
        entries: list[Entry] = []
        size = 0
        while size < limit:
            count = max(1, min(MOST_AT_ONCE, (limit - size) // self._entry_bytes))
            page = await self._page(start, count, 0 if entries else block_ms)
            entries += page
            got = sum(len(packed or b"") for _, _, packed in page)
            size += got
            if page:
                # Rises at once, falls slowly: one large entry among small ones must not be forgotten.
                self._entry_bytes = max(got // len(page), self._entry_bytes * 3 // 4, 64)
            if len(page) < count:
                break
            if start != ">":
                start = f"{page[-1][0]}-{page[-1][1]}"
        return entries

    async def _page(self, start: str, count: int, block_ms: int) -> list[Entry]:
        block = ("BLOCK", block_ms) if block_ms else ()
        group = ("GROUP", AUDIT_GROUP, CONSUMER, "COUNT", count)
        reply = await self._safe("XREADGROUP", *group, *block, "STREAMS", self._keys.events, start)
        return [(*_id(entry), _packed(fields)) for entry, fields in _entries(reply)]

    async def _safe(self, *command: Any) -> Any:
        try:
            return await self._command(*command)
        except ResponseError as error:
            raise Unavailable(f"Redis: {error}") from error

    async def _command(self, *command: Any) -> Any:
        try:
            return await self._redis.execute_command(*command)
        except ResponseError:
            raise
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis: {error}") from error


def _id(entry: bytes) -> tuple[int, int]:
    ms, _, seq = entry.partition(b"-")
    return int(ms), int(seq)


def _packed(fields: Any) -> bytes | None:
    """The packed batch; None when the entry was deleted; empty when it holds no batch at all."""
    if not fields:
        return None
    members = cast(dict[bytes, bytes], fields)
    return members.get(b"e", b"")


def _entries(reply: Any) -> list[tuple[bytes, Any]]:
    """The client speaks RESP2: a list of [stream, entries]."""
    return cast("list[tuple[bytes, Any]]", reply[0][1]) if reply else []
