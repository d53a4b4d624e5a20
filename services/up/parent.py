"""A role's side of its tie to `taskq up`: when that is gone, the role ends.

A pipe tells it everywhere: `up` holds the only writing end, so its end reads as end of file here. On Linux
the kernel sends a signal as well, at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from taskq_core.worker.process import die_with_parent

__all__ = ["follow_parent"]

_LATEST_S = 5.0  # beyond the patience, before the role is killed whatever it does


def follow_parent(descriptor: int | None, *, patience: float = 5.0) -> None:
    """End this process (and its group) with its parent: SIGTERM, and SIGKILL after `patience` seconds.

    `descriptor` is the reading end of the parent's pipe; None when nobody is to be followed.
    """
    if descriptor is None:
        return
    die_with_parent(signal.SIGTERM)
    watcher = threading.Thread(target=_watch, args=(descriptor, patience), name="parent", daemon=True)
    watcher.start()


def _watch(descriptor: int, patience: float) -> None:
    try:
        os.read(descriptor, 1)
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(patience + _LATEST_S)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
