"""Verbs for whoever runs the system: migrate, config, backup, restore-backup."""

from __future__ import annotations

import asyncio
import os
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from services.cli.common import AsJson, Data, read_settings
from services.cli.show import print_json, print_line, print_table
from taskq_core.config import CONFIG_FILE, PREFIX, Settings
from taskq_core.errors import ConfigError
from taskq_core.log import mask

__all__ = ["add_to"]

_SHARED = frozenset({"redis_url", "database_url", "url", "token"})  # what up.json tells of a running system


def migrate(data: Data = None) -> None:
    """Bring the database to this release's schema and load the functions into Redis."""
    settings = read_settings(data)
    if not settings.redis_url or not settings.database_url:
        raise ConfigError("migrate needs TASKQ_REDIS_URL and TASKQ_DATABASE_URL; set both")
    for line in asyncio.run(_migrate(settings)):
        print_line(line)


async def _migrate(settings: Settings) -> list[str]:
    from taskq_core.audit.migrate import migrate as migrate_database
    from taskq_core.broker.functions import Broker

    said = await migrate_database(settings.database_url) or ["the database is up to date"]
    broker = await Broker.connect(settings.redis_url, name="taskq migrate", patience=5.0)
    await broker.close()
    return [*said, "the functions are loaded"]


def config(as_json: AsJson = False, data: Data = None) -> None:
    """Show every setting and where it comes from; secrets are hidden."""
    settings = read_settings(data, require=False)
    given = {"home"} if data is not None else set[str]()
    rows = [
        (name, _shown(settings, name), _source(settings, name, given)) for name in Settings.__struct_fields__
    ]
    if as_json:
        print_json({name: {"value": value, "source": source} for name, value, source in rows})
    else:
        print_table(("SETTING", "VALUE", "FROM"), rows)


def _shown(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    if isinstance(value, tuple):
        return ", ".join(str(part) for part in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return mask(str(value))


def _source(settings: Settings, name: str, flags: set[str]) -> str:
    """Where a setting comes from; the order is that of `load_settings`."""
    value = getattr(settings, name)
    if not value:
        return "not set"
    if name in flags:
        return "flag"
    variable = PREFIX + name.upper()
    found = next((each for each in (variable, f"{variable}_FILE") if os.environ.get(each)), "")
    if found:
        return found
    if {name, f"{name}_file"} & _in_file():
        return CONFIG_FILE
    if name in _SHARED:
        return "up.json"
    return "default"


def _in_file() -> set[str]:
    """Names that taskq.toml sets; it was checked before."""
    try:
        return set(tomllib.loads(Path(CONFIG_FILE).read_text(encoding="utf-8")))
    except OSError:
        return set()


def backup(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to; taskq-<time>.tar.gz unless given.")
    ] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Write everything that the system knows into one file, while it runs."""
    from services.backup import write_backup

    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigError(f"{file.parent} is no folder; make it first")
    made = asyncio.run(write_backup(read_settings(data), file))
    if as_json:
        print_json(made.manifest)
    else:
        print_line(f"{made.path}  {made.summary}")


def restore_backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `taskq backup` wrote.")],
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite what is there already.")] = False,
    data: Data = None,
) -> None:
    """Put a backup into an empty data folder (or, by URL, into empty servers)."""
    from services.backup import restore

    for line in asyncio.run(restore(file, read_settings(data, require=False), replace=replace)):
        print_line(line)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    for verb in (migrate, config, backup):
        app.command()(verb)
    app.command("restore-backup")(restore_backup)
