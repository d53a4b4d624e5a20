"""A Redis snapshot on its way back: as the first file of an embedded server, or key by key into another."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from services.backup.key_copy import copy_keys, our_keys
from taskq_core.broker.redis import check_server, make_redis
from taskq_core.embedded import DataFolder, ServerOptions, Servers
from taskq_core.errors import ConfigError

__all__ = ["seed_folder", "transfer"]

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

    Raises ConfigError when the server is unfit or holds keys of ours already (without `replace`).
    """
    async with _client(url) as target:
        await check_server(target)
        await _make_room(target, replace=replace)
        async with _loaded(snapshot) as source:
            await copy_keys(source, target)


@contextlib.asynccontextmanager
async def _loaded(snapshot: Path) -> AsyncGenerator[Any]:
    """A client of an embedded server that holds the snapshot."""
    with tempfile.TemporaryDirectory(prefix="taskq-restore-") as place:
        folder = DataFolder(Path(place) / "data")
        with folder.claim():
            seed_folder(folder.valkey, snapshot)
            servers = Servers(folder, ServerOptions(postgres=False))
            async with servers, _client(servers.redis_url) as client:
                yield client


@contextlib.asynccontextmanager
async def _client(url: str) -> AsyncGenerator[Any]:
    client = make_redis(url, name="taskq restore")
    try:
        yield client
    finally:
        await client.aclose()


async def _make_room(target: Any, *, replace: bool) -> None:
    async for keys in our_keys(target):
        if not replace:
            raise ConfigError("Redis holds keys of taskq already; name an empty server, or --replace them")
        await target.unlink(*keys)
