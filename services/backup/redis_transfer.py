"""A Redis snapshot on its way back: as the first file of an embedded server, or key by key into another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from redis.exceptions import ResponseError

from taskq_core.broker.redis import make_redis
from taskq_core.embedded import ServerOptions, Servers
from taskq_core.errors import ConfigError

__all__ = ["seed_folder", "transfer"]

_OURS = "taskq:*"
_PAGE = 500
_APPEND_ONLY = "appendonlydir"  # the servers' default, as are the names below
_BASE, _NEXT = "appendonly.aof.1.base.rdb", "appendonly.aof.1.incr.aof"
_MANIFEST = f"file {_BASE} seq 1 type b\nfile {_NEXT} seq 1 type i\n"


def seed_folder(folder: Path, snapshot: Path) -> None:
    """Make a server that starts over this folder begin with the snapshot.

    It is laid down as the base of an append-only file: with `appendonly yes` a bare snapshot is not read.
    """
    target = folder / _APPEND_ONLY
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(snapshot, target / _BASE)
    (target / _NEXT).touch()
    (target / "appendonly.aof.manifest").write_text(_MANIFEST, encoding="ascii")


async def transfer(snapshot: Path, url: str, *, replace: bool) -> None:
    """Write our keys of a snapshot into a running server, by way of an embedded one.

    Raises ConfigError when there are keys of ours already (without `replace`) or the server is too old.
    """
    target = make_redis(url, name="taskq restore")
    try:
        await _make_room(target, replace=replace)
        with tempfile.TemporaryDirectory(prefix="taskq-restore-") as place:
            home = Path(place) / "data"
            servers = Servers(home, ServerOptions(postgres=False))
            servers.folder.acquire()
            try:
                seed_folder(servers.folder.valkey, snapshot)
                async with servers:
                    source = make_redis(servers.redis_url)
                    try:
                        await _copy_keys(source, target)
                    finally:
                        await source.aclose()
            finally:
                servers.folder.release()
    finally:
        await target.aclose()


async def _make_room(target: Any, *, replace: bool) -> None:
    async for page in _pages(target):
        if not replace:
            raise ConfigError("Redis holds keys of taskq already; name an empty server, or --replace them")
        await target.unlink(*page)


async def _copy_keys(source: Any, target: Any) -> None:
    async for page in _pages(source):
        async with source.pipeline(transaction=True) as pipe:
            for key in page:
                pipe.dump(key)
                pipe.pexpiretime(key)
            answers = await pipe.execute()
        async with target.pipeline(transaction=False) as pipe:
            for key, packed, expires in zip(page, answers[::2], answers[1::2], strict=True):
                if packed is not None:
                    pipe.restore(key, max(expires, 0), packed, replace=True, absttl=expires > 0)
            try:
                await pipe.execute()
            except ResponseError as error:
                raise ConfigError(
                    f"this Redis cannot read what the backup holds ({error}); use the version that wrote it"
                ) from error


async def _pages(client: Any) -> AsyncGenerator[list[bytes]]:
    """Our keys, some at a time."""
    cursor = 0
    while True:
        cursor, keys = await client.scan(cursor, match=_OURS, count=_PAGE)
        if keys:
            yield keys
        if not int(cursor):
            return
