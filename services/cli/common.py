"""What the verbs share: the options that say which system is meant, and the way into it."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from taskq_core.config import Settings, load_settings
from taskq_core.errors import ConfigError

if TYPE_CHECKING:
    from taskq_core.client import Client
    from taskq_core.read.direct import DirectReader

__all__ = ["AsJson", "Data", "Reason", "Session", "actor", "read_settings", "work"]

Data = Annotated[Path | None, typer.Option("--data", metavar="FOLDER", help="Data folder of the system.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the REST API gives it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it is kept in the history.")]


def read_settings(data: Path | None = None, *, require: bool = True, **flags: Any) -> Settings:
    """The settings of this call. Raises ConfigError, NothingRuns."""
    given = flags | ({} if data is None else {"home": str(data)})
    return load_settings(given, os.environ, Path.cwd(), require=require)


def actor() -> str:
    """Who acts, as the history keeps it."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # a user without a name
        return f"cli:{os.geteuid()}"


class Session:
    """The way into one system for the length of a verb; connects to what the verb asks for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client: Client | None = None
        self._reader: DirectReader | None = None

    async def client(self) -> Client:
        """The command side. Raises ConfigError, Unavailable."""
        if self._client is None:
            from taskq_core.client import Client

            self._client = await Client.of(self.settings).connect()
        return self._client

    async def reader(self) -> DirectReader:
        """The view side. Raises ConfigError, Unavailable."""
        if self._reader is None:
            from taskq_core.read.direct import DirectReader

            if not self.settings.redis_url or not self.settings.database_url:
                raise ConfigError("this verb needs TASKQ_REDIS_URL and TASKQ_DATABASE_URL; set both")
            self._reader = await DirectReader.connect(self.settings.redis_url, self.settings.database_url)
        return self._reader

    async def task_id(self, word: str) -> str:
        """The id that a word means: an id, or `last` for the task submitted last. Raises NotFound."""
        from taskq_core.errors import NotFound
        from taskq_core.model.ids import check_id

        if word != "last":
            return check_id(word)
        found = (await (await self.reader()).tasks(limit=1)).tasks
        if not found:
            raise NotFound("there is no task yet; submit one, like: taskq submit demo.echo text=hello")
        return found[0].id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()
        if self._reader is not None:
            await self._reader.close()


def work[T](data: Path | None, what: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
    """Run a verb's work on an event loop, over the system that the settings name."""
    settings = read_settings(data)

    async def inside() -> T:
        async with Session(settings) as session:
            return await what(session)

    return asyncio.run(inside())
