"""Taking a backup of a running system."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec

from services.backup.archive import FOLDERS, FORMAT, HISTORY, REDIS, Manifest, describe, pack
from services.backup.history_copy import Copied, copy_out
from services.backup.redis_snapshot import fetch_snapshot
from taskq_core import __version__
from taskq_core.broker.functions import Broker
from taskq_core.clock import format_ms
from taskq_core.config import Settings
from taskq_core.errors import ConfigError, TaskqError

__all__ = ["GROUP", "Made", "write_backup"]

GROUP = "backup"  # on the event stream, for as long as a backup is taken


class Made(msgspec.Struct, frozen=True):
    """A backup that was written."""

    path: Path
    manifest: Manifest

    @property
    def summary(self) -> str:
        """In a line, for people."""
        size, tasks = self.path.stat().st_size / 1e6, self.manifest.tables["tasks"].rows
        return f"{size:.1f} MB, {tasks} tasks in the history, {self.manifest.head} events"


async def write_backup(settings: Settings, target: Path | None) -> Made:
    """Write everything into one file; work goes on meanwhile. Raises ConfigError, Unavailable."""
    if not settings.redis_url or not settings.database_url:
        raise ConfigError("a backup needs TASKQ_REDIS_URL and TASKQ_DATABASE_URL; set both")
    async with await Broker.connect(settings.redis_url, name="taskq backup", patience=5.0) as broker:
        taken_at = format_ms(broker.clock.now_ms()) or ""
        path = (target or Path(f"taskq-{taken_at[:19].replace(':', '')}.tar.gz")).absolute()
        if path.exists():
            raise ConfigError(f"{path} exists; name another file")
        with tempfile.TemporaryDirectory(prefix=".taskq-backup-", dir=path.parent) as folder:
            manifest = await _take(broker, settings, Path(folder), taken_at)
            await asyncio.to_thread(pack, path, Path(folder), manifest)
    return Made(path, manifest)


async def _take(broker: Broker, settings: Settings, staging: Path, taken_at: str) -> Manifest:
    (staging / HISTORY).mkdir()
    async with _events_kept(broker):
        copied = await copy_out(settings.database_url, staging / HISTORY)
        await asyncio.to_thread(fetch_snapshot, settings.redis_url, staging / REDIS)
        head = await _check_joined(broker, copied)
    await asyncio.to_thread(_copy_folders, settings.home, staging)
    info: dict[str, Any] = await broker.redis.info("server")
    kind = "valkey" if "valkey_version" in info else "redis"
    return Manifest(
        format=FORMAT,
        taken_at=taken_at,
        taskq=__version__,
        redis=f"{kind} {info.get(f'{kind}_version', '?')}",
        postgres=copied.server,
        schema=copied.schema,
        position=copied.position,
        head=head,
        tables=copied.tables,
        parts=await asyncio.to_thread(describe, staging),
    )


@contextlib.asynccontextmanager
async def _events_kept(broker: Broker) -> AsyncGenerator[None]:
    """Keep events from being trimmed: a group that has read nothing after the oldest of them."""
    redis, events = broker.redis, broker.keys.events
    await redis.execute_command("XGROUP", "DESTROY", events, GROUP)  # of a backup that was killed
    await redis.execute_command("XGROUP", "CREATE", events, GROUP, "0", "MKSTREAM")
    try:
        yield
    finally:
        await redis.execute_command("XGROUP", "DESTROY", events, GROUP)


async def _check_joined(broker: Broker, copied: Copied) -> int:
    """The stream must go on where the history ends. Answers the number of the newest event."""
    from taskq_core.model.event import decode_batch  # noqa: PLC0415  # needed here alone

    events = broker.keys.events
    head = int(await broker.redis.hget(broker.keys.meta, "n") or 0)
    committed = copied.position[3] if copied.position else 0
    start = f"({copied.position[1]}-{copied.position[2]}" if copied.position else "-"
    following = await broker.redis.xrange(events, min=start, count=1)
    first = decode_batch(following[0][1][b"e"]).n if following else head + 1
    if committed < head and first > committed + 1:
        raise TaskqError("events were trimmed while the backup was taken; take it again")
    return head


def _copy_folders(home: Path, staging: Path) -> None:
    """Uploads and images, where the data folder is on this machine."""
    for name in FOLDERS:
        if (home / name).is_dir():
            shutil.copytree(home / name, staging / name, symlinks=True)
