"""Single keys from the terminal, while `taskq up` runs in its foreground."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Callable, Generator, Mapping
from typing import Any

__all__ = ["KEYS_LINE", "taking_keys"]

KEYS_LINE = " keys       d demo load on or off · k kill a runner · q quit"


@contextlib.contextmanager
def taking_keys(actions: Mapping[str, Callable[[], object]]) -> Generator[bool]:
    """Call what belongs to a key when it is pressed; whether there is a terminal. Restores it at the end.

    Ctrl-C and Ctrl-Z keep their meaning. In the background keys are the shell's, not ours.
    """
    descriptor = _terminal()
    if descriptor is None:
        yield False
        return
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()
    tty.setcbreak(descriptor, termios.TCSANOW)
    loop.add_reader(descriptor, _pressed, descriptor, actions)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        _restore(descriptor, before)


def _terminal() -> int | None:
    """The terminal whose foreground we are; None when there is none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    descriptor = sys.stdin.fileno()
    with contextlib.suppress(OSError):
        if os.tcgetpgrp(descriptor) == os.getpgrp():
            return descriptor
    return None


def _pressed(descriptor: int, actions: Mapping[str, Callable[[], object]]) -> None:
    try:
        keys = os.read(descriptor, 64).decode(errors="ignore")
    except OSError:
        keys = ""
    if not keys:  # the terminal is gone
        asyncio.get_running_loop().remove_reader(descriptor)
    for key in keys:
        action = actions.get(key.lower())
        if action is not None:
            action()


def _restore(descriptor: int, before: list[Any]) -> None:
    with contextlib.suppress(termios.error, OSError):
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
