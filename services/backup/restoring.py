"""Putting a backup back: into an empty data folder, or into empty servers given by URL."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from redis.exceptions import ResponseError

from services.backup.archive import FOLDERS, HISTORY, REDIS, Manifest, unpack
from services.backup.history_copy import copy_in, is_empty
from services.backup.redis_transfer import seed_folder, transfer
from services.backup.writing import GROUP
from services.called import called_as
from taskq_core.audit.migrate import migrate, migrations
from taskq_core.broker.functions import Broker
from taskq_core.broker.keys import AUDIT_GROUP
from taskq_core.config import Settings
from taskq_core.embedded import DataFolder, ServerOptions, Servers
from taskq_core.errors import AlreadyRunning, ConfigError

__all__ = ["restore"]


async def restore(source: Path, settings: Settings, *, replace: bool) -> list[str]:
    """Restore; answers what was done, a line each.

    Raises ConfigError for a damaged or newer backup and where something is already (without `replace`).
    """
    folder = DataFolder(settings.home)
    if folder.read_up() is not None:
        raise AlreadyRunning(f"taskq runs in {folder.path}; stop it, or choose another folder with --data")
    with folder.claim(), tempfile.TemporaryDirectory(prefix=".restore-", dir=folder.path) as place:
        staging = Path(place)
        manifest = unpack(source, staging)
        _check_schema(manifest)
        if not replace:
            _refuse_data(folder, settings)
        await _fill(folder, settings, staging, manifest, replace=replace)
        _place_folders(folder, staging)
    counts = f"{manifest.tables['tasks'].rows} tasks in the history, {manifest.head} events"
    return [
        f"restored the state of {manifest.taken_at}: {counts}",
        f"start it with `{called_as(Path.cwd())} up`; what ran then starts again when its lease ends",
    ]


def _check_schema(manifest: Manifest) -> None:
    unknown = set(manifest.schema) - {step.name for step in migrations()}
    if unknown:
        raise ConfigError(f"the backup is newer than this release: it has {min(unknown)}; update taskq")


def _refuse_data(folder: DataFolder, settings: Settings) -> None:
    there = [path for path in (folder.valkey, folder.postgres) if path.is_dir() and any(path.iterdir())]
    if there and not (settings.redis_url and settings.database_url):
        raise ConfigError(
            f"{folder.path} holds data already; choose an empty folder with --data, or --replace it"
        )


async def _fill(
    folder: DataFolder, settings: Settings, staging: Path, manifest: Manifest, *, replace: bool
) -> None:
    async with _stores(folder, settings, staging, replace=replace) as (redis_url, database_url):
        if not replace and not await is_empty(database_url):
            raise ConfigError("the database holds a history already; name an empty one, or --replace it")
        await migrate(database_url)
        await copy_in(database_url, staging / HISTORY, manifest.tables, replace=replace)
        await _join(redis_url, manifest)


@contextlib.asynccontextmanager
async def _stores(
    folder: DataFolder, settings: Settings, staging: Path, *, replace: bool
) -> AsyncGenerator[tuple[str, str]]:
    """Both stores, running: those given by URL, the embedded ones for the rest; Redis has its content."""
    own = ServerOptions(valkey=not settings.redis_url, postgres=not settings.database_url)
    if own.valkey:
        if replace:
            shutil.rmtree(folder.valkey, ignore_errors=True)
        seed_folder(folder.valkey, staging / REDIS)
    else:
        await transfer(staging / REDIS, settings.redis_url, replace=replace)
    async with Servers(folder, own) as servers:
        yield settings.redis_url or servers.redis_url, settings.database_url or servers.database_url


async def _join(redis_url: str, manifest: Manifest) -> None:
    """Set the relay back to where the history ends, and forget the group that a backup needs."""
    async with await Broker.connect(redis_url, name="taskq restore", patience=10.0) as broker:
        redis: Any = broker.redis
        events = broker.keys.events
        await redis.execute_command("XGROUP", "DESTROY", events, GROUP)
        place = f"{manifest.position[1]}-{manifest.position[2]}" if manifest.position else "0"
        with contextlib.suppress(ResponseError):  # it came with the snapshot
            await redis.execute_command("XGROUP", "CREATE", events, AUDIT_GROUP, place, "MKSTREAM")
        await redis.execute_command("XGROUP", "SETID", events, AUDIT_GROUP, place)


def _place_folders(folder: DataFolder, staging: Path) -> None:
    for name in FOLDERS:
        if (staging / name).is_dir():
            shutil.copytree(staging / name, folder.path / name, dirs_exist_ok=True)
