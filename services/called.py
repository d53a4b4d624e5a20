"""How the command is called from here: what hints and the card print, so that they can be pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

__all__ = ["called_as"]

_CHECKOUT = Path(__file__).resolve().parent.parent


def called_as(cwd: Path) -> str:
    """`./run` in its checkout, the path of it elsewhere, or `taskq` when it is installed without one."""
    if (cwd / "run").is_file() and cwd.resolve() == _CHECKOUT:
        return "./run"
    run = _CHECKOUT / "run"
    return shlex.quote(str(run)) if run.is_file() else "taskq"
