"""What is printed when all is ready: lines that work as they stand when pasted into another terminal."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import msgspec

from services.called import called_as

__all__ = ["Facts", "write_card"]

_SIZES = [[320, 320], [96, 96]]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the card tells."""

    seconds: float
    home: Path
    usual_home: bool  # whether a second terminal finds it without being told
    api: str  # base address
    token_file: Path | None  # None: no key is asked for
    image: str  # a sample image, as image.resize takes it
    demo: bool
    cwd: Path


def write_card(facts: Facts) -> str:
    """The card, one line after the other."""
    taskq = called_as(facts.cwd)
    data = "" if facts.usual_home else f" --data {_path(facts.home, facts.cwd)}"
    lines = [
        f"taskq is ready in {facts.seconds:.1f} s · data {_path(facts.home, facts.cwd)} · stop with Ctrl-C",
        f" try it     {_curl(facts)}",
        f" watch it   {taskq} task last --follow{data}",
        f" your own   {taskq}{' up' if taskq == 'taskq' else ''} --import examples.hello --reload{data}",
    ]
    if not facts.demo:
        lines.append(f" life       {taskq}{' up' if taskq == 'taskq' else ''} --demo{data}")
    return "\n".join(lines)


def _curl(facts: Facts) -> str:
    body = json.dumps(
        {"name": "image.resize", "payload": {"source": facts.image, "sizes": _SIZES}}, separators=(",", ":")
    )
    kind = "-H 'Content-Type: application/json'"
    call = f"{kind} {facts.api}/api/tasks -d {shlex.quote(body)}"
    if facts.token_file is None:
        return f"curl -s {call}"
    return f'curl -sH "Authorization: Bearer $(cat {_path(facts.token_file, facts.cwd)})" {call}'


def _path(path: Path, cwd: Path) -> str:
    """A path as short as it can be said from here, quoted for the shell."""
    shown = os.path.relpath(path, cwd) if path.is_relative_to(cwd) else str(path)
    if shown.startswith("-"):  # it would be taken for an option
        shown = f"./{shown}"
    return shlex.quote(shown)
