"""What a terminal or a pipe gets to see: tables, colours, JSON. Text from outside is made harmless here."""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, TextIO

import msgspec

from taskq_core.log import escape

__all__ = [
    "COLOURS",
    "Cell",
    "duration",
    "moment",
    "paint",
    "print_json",
    "print_line",
    "print_table",
    "to_json",
]

COLOURS = {
    "succeeded": "32",
    "ok": "32",
    "started": "36",
    "running": "36",
    "retrying": "33",
    "degraded": "33",
    "parked": "33",
    "dead": "31",
    "down": "31",
    "lost": "31",
    "cancelled": "35",
    "head": "1",
    "dim": "2",
}
_WIDEST = 200  # columns, where nobody says how wide the terminal is
_IN_JSON = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_MINUTE, _HOUR = 60.0, 3600.0

type Cell = str | int | float | None


def wants_colour(out: TextIO) -> bool:
    """Whether escape codes are welcome: a terminal that can, and nobody said NO_COLOR."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, role: str, out: TextIO | None = None) -> str:
    """The text in the colour of a state or role, where colours are welcome."""
    code = COLOURS.get(role)
    return f"\x1b[{code}m{text}\x1b[0m" if code and wants_colour(out or sys.stdout) else text


def print_line(text: str) -> None:
    """One line, made harmless."""
    print(escape(text))


def to_json(value: Any) -> str:
    """JSON on one line; characters that could drive a terminal or hide are escaped."""
    text = msgspec.json.encode(value).decode()
    return _IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_json(value: Any) -> None:
    """JSON on one line of stdout."""
    print(to_json(value), flush=True)


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "-"
    if seconds < 1.0:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < _HOUR else f"{seconds / _HOUR:.1f} h"


def moment(time: str | None) -> str:
    """An RFC 3339 time without what repeats on every line."""
    return "-" if time is None else time.replace("T", " ").removesuffix("Z")[:19]


def width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def print_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, coloured: int | None = None) -> None:
    """Aligned columns; in a terminal the last one is cut at its edge. `coloured`: the column of states."""
    texts = [[_text(cell) for cell in row] for row in rows]
    sizes = [max(width(line[at]) for line in [list(heads), *texts]) for at in range(len(heads))]
    room = shutil.get_terminal_size((_WIDEST, 24)).columns if sys.stdout.isatty() else 0
    print(paint(_row(heads, sizes, room), "head"))
    for line in texts:
        plain = _row(line, sizes, room)
        print(plain if coloured is None else _painted(plain, line, sizes, coloured))


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return escape(cell) if isinstance(cell, str) else f"{cell:g}" if isinstance(cell, float) else str(cell)


def _row(cells: Sequence[str], sizes: Sequence[int], room: int) -> str:
    line = "  ".join(cell + " " * (size - width(cell)) for cell, size in zip(cells, sizes, strict=True))
    return _cut(line.rstrip(), room) if room else line.rstrip()


def _cut(line: str, room: int) -> str:
    if width(line) <= room:
        return line
    taken = 0
    for at, character in enumerate(line):
        taken += _cells(character)
        if taken > room - 1:
            return line[:at] + "…"
    return line


def _painted(plain: str, cells: Sequence[str], sizes: Sequence[int], coloured: int) -> str:
    """The line with one of its cells in colour; cells before it are as long as they are wide."""
    before = "  ".join(
        cell + " " * (size - width(cell))
        for cell, size in zip(cells[:coloured], sizes[:coloured], strict=True)
    )
    start = len(before) + (2 if coloured else 0)
    end = start + len(cells[coloured])
    return plain[:start] + paint(plain[start:end], cells[coloured]) + plain[end:]
