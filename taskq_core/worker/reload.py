"""Duty with `--reload`: notice that the user's code is not the code that runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

__all__ = ["SourceWatch", "changed_at", "source_files"]

MOST_FILES = 2000


class SourceWatch:
    """Compares the files with what the running code was read from; a difference is tried once."""

    REST_S = 0.2

    def __init__(self, loaded: Callable[[], dict[str, int]], reload: Callable[[], Awaitable[None]]) -> None:
        """`loaded` tells each file of the running code and its time (ns) when it was read."""
        self._loaded = loaded
        self._reload = reload
        self._tried: dict[str, int] = {}

    async def step(self) -> float:
        """Look once."""
        loaded = self._loaded()
        now = {file: changed_at(file) for file in loaded.keys() | self._tried.keys()}
        if not loaded:  # nothing could be loaded yet: any change below this folder is worth a try
            now = {str(file): changed_at(str(file)) for file in source_files(Path.cwd())}
            self._tried = self._tried or now
        differs = any(now[file] != at for file, at in loaded.items()) or not loaded
        if differs and now != self._tried:
            self._tried = now
            await self._reload()
        return self.REST_S


def source_files(folder: Path) -> list[Path]:
    """Source files below a folder, hidden folders left out, a bounded number."""
    found: list[Path] = []
    for here, folders, files in folder.walk():
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [here / name for name in files if name.endswith(".py")]
        if len(found) >= MOST_FILES:
            break
    return found[:MOST_FILES]


def changed_at(file: str) -> int:
    """When a file last changed, in ns; 0 when it is gone."""
    try:
        return Path(file).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
