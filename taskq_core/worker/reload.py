"""Duty with `--reload`: notice that the user's code changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

__all__ = ["SourceWatch", "source_files"]

MOST_FILES = 2000


class SourceWatch:
    """Looks at the times of the source files; a change is followed by one reload."""

    REST_S = 0.2

    def __init__(self, files: Callable[[], list[str]], reload: Callable[[], Awaitable[None]]) -> None:
        self._files = files
        self._reload = reload
        self._seen: dict[str, int] = {}

    async def step(self) -> float:
        """Look once."""
        now = {file: _changed_at(file) for file in set(self._files()) | set(self._seen)}
        changed = any(file in self._seen and self._seen[file] != at for file, at in now.items())
        self._seen = now
        if changed:
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


def _changed_at(file: str) -> int:
    try:
        return Path(file).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
