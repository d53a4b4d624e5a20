"""Duty with `--reload`: notice that the user's code changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

__all__ = ["SourceWatch"]


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


def _changed_at(file: str) -> int:
    try:
        return Path(file).stat().st_mtime_ns
    except FileNotFoundError:
        return 0
