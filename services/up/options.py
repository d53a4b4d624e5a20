"""What the command line tells `taskq up`."""

from __future__ import annotations

from pathlib import Path

import msgspec

__all__ = ["UpOptions"]


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The flags of `taskq up`."""

    data: Path | None = None  # data folder; None: as the settings say
    host: str = "127.0.0.1"
    port: int = 8000  # 0 takes a free one
    workers: int = 1  # runner processes of the worker
    imports: tuple[str, ...] = ()  # modules with tasks, beside the samples
    reload: bool = False
    demo: bool = False
    no_auth: bool = False
    grace: float = 10.0  # seconds that running tasks get at the end
