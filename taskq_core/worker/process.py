"""Starting and describing child processes."""

from __future__ import annotations

import ctypes
import signal
import sys
from types import FrameType

__all__ = ["die_with_parent", "how_it_died", "ignore"]

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel for a signal when the parent dies; elsewhere the end of a pipe must do.

    Called by the child itself as its first act. The signal follows the thread that started the child.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def how_it_died(code: int) -> str:
    """The words for an exit code as subprocess gives it: below zero a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def ignore(number: signal.Signals) -> None:
    """Ignore a signal here, but not in what this process starts: SIG_IGN would be inherited."""

    def nothing(_number: int, _frame: FrameType | None) -> None:
        return

    signal.signal(number, nothing)
