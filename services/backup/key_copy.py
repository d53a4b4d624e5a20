"""Keys of one Redis written into another, by what they hold: no version of the server reads another's dumps.

Streams keep their ids, counters, groups and pending entries, so that leases and the relay go on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from taskq_core.errors import ConfigError

__all__ = ["copy_keys", "our_keys"]

_OURS = "taskq:*"
_PAGE = 500  # keys, or entries of a stream, at a time

type Copy = Callable[[Any, Any, bytes], Awaitable[None]]


async def our_keys(client: Any) -> AsyncGenerator[list[bytes]]:
    """Our keys, some at a time."""
    cursor = 0
    while True:
        cursor, keys = await client.scan(cursor, match=_OURS, count=_PAGE)
        if keys:
            yield keys
        if not int(cursor):
            return


async def copy_keys(source: Any, target: Any) -> None:
    """Write all our keys of `source`, which nobody changes meanwhile, into `target`, which has none."""
    async for keys in our_keys(source):
        async with source.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.type(key)
                pipe.execute_command("PEXPIRETIME", key)
            facts: list[Any] = await pipe.execute()
        for key, kind, expires in zip(keys, facts[::2], facts[1::2], strict=True):
            copy = _COPIES.get(kind.decode())
            if copy is None:
                raise ConfigError(f"the backup holds a key of type {kind.decode()}; update taskq")
            await copy(source, target, key)
            if expires > 0:
                await target.pexpireat(key, expires)


async def _string(source: Any, target: Any, key: bytes) -> None:
    await target.set(key, await source.get(key))


async def _hash(source: Any, target: Any, key: bytes) -> None:
    await target.hset(key, mapping=await source.hgetall(key))


async def _set(source: Any, target: Any, key: bytes) -> None:
    await target.sadd(key, *await source.smembers(key))


async def _zset(source: Any, target: Any, key: bytes) -> None:
    members: list[tuple[bytes, float]] = await source.zrange(key, 0, -1, withscores=True)
    for start in range(0, len(members), _PAGE):
        await target.zadd(key, dict(members[start : start + _PAGE]))


async def _list(source: Any, target: Any, key: bytes) -> None:
    await target.rpush(key, *await source.lrange(key, 0, -1))


async def _stream(source: Any, target: Any, key: bytes) -> None:
    facts = _pairs(await source.execute_command("XINFO", "STREAM", key))
    groups = [_pairs(flat) for flat in await source.execute_command("XINFO", "GROUPS", key)]
    start = "-"
    while entries := await _call(source, "XRANGE", key, start, "+", "COUNT", _PAGE):
        async with target.pipeline(transaction=False) as pipe:
            for entry, fields in entries:
                pipe.execute_command("XADD", key, entry, *fields)
            await pipe.execute()
        start = f"({entries[-1][0].decode()}"
    if not groups and not facts["length"]:
        return
    for group in groups or [{"name": b"restore", "last-delivered-id": b"0-0"}]:
        await target.execute_command(
            "XGROUP", "CREATE", key, group["name"], group["last-delivered-id"], "MKSTREAM"
        )
    if not groups:
        await target.execute_command("XGROUP", "DESTROY", key, "restore")
    await target.execute_command(
        "XSETID",
        key,
        facts["last-generated-id"],
        "ENTRIESADDED",
        facts["entries-added"],
        "MAXDELETEDID",
        facts["max-deleted-entry-id"],
    )
    for group in groups:
        await _pending(source, target, key, group["name"])


async def _pending(source: Any, target: Any, key: bytes, group: bytes) -> None:
    """What was handed out and not acknowledged: to whom, when, and how often."""
    seconds, micros = await source.time()
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    start = "-"
    while page := await _call(source, "XPENDING", key, group, start, "+", _PAGE):
        async with target.pipeline(transaction=False) as pipe:
            for entry, consumer, idle_ms, deliveries in page:
                claim: Sequence[Any] = ("XCLAIM", key, group, consumer, 0, entry, "TIME", now_ms - idle_ms)
                pipe.execute_command(*claim, "RETRYCOUNT", deliveries, "FORCE", "JUSTID", parse_justid=True)
            await pipe.execute()
        start = f"({page[-1][0].decode()}"


async def _call(client: Any, *command: Any) -> list[Any]:
    """A command whose answer is wanted as the server gives it, without the library's own forms."""
    connection = await client.connection_pool.get_connection()
    try:
        await connection.send_command(*command)
        return await connection.read_response()
    finally:
        await client.connection_pool.release(connection)


def _pairs(answer: Any) -> dict[str, Any]:
    """A map, in whichever form the library hands it over."""
    if isinstance(answer, dict):
        items: list[tuple[Any, Any]] = list(answer.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    else:
        items = list(zip(answer[::2], answer[1::2], strict=True))
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in items}


_COPIES: dict[str, Copy] = {
    "string": _string,
    "hash": _hash,
    "set": _set,
    "zset": _zset,
    "list": _list,
    "stream": _stream,
}
