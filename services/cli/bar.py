"""A progress bar on the last line of a terminal; nothing anywhere else."""

from __future__ import annotations

import sys

from taskq_core.log import escape

__all__ = ["Bar"]

_CELLS = 24
_MESSAGE = 40


class Bar:
    """Draws on stderr, so that what a verb prints stays clean."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._drawn = False

    def show(self, fraction: float | None, message: str | None = None) -> None:
        """Draw how far something is (0 to 1; None: unknown)."""
        if not self._on:
            return
        share = min(max(fraction or 0.0, 0.0), 1.0)
        full = round(share * _CELLS)
        text = escape((message or "")[:_MESSAGE])
        line = f"\r[{'█' * full}{'·' * (_CELLS - full)}] {share:4.0%}  {text}\x1b[K"
        print(line, end="", file=sys.stderr, flush=True)
        self._drawn = True

    def clear(self) -> None:
        """Take it away."""
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._drawn = False
