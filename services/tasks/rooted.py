"""Opening a file that a stranger named, without leaving the folder it must lie in."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["OutsideRoot", "open_beneath"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: opening a pipe that nobody writes to would wait for ever.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OutsideRoot(ValueError):
    """The path is absolute, climbs upwards, or is otherwise no plain path below the folder."""


def open_beneath(root: Path, relative: str) -> BinaryIO:
    """Open a regular file below `root` for reading.

    Each step is opened relative to the one before and no step may be a symbolic link, so nothing can be
    swapped between a check and the opening. Raises OutsideRoot, or OSError as opening does.
    """
    folders, name = _steps(relative)
    # The root is ours: it may be a link.
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = os.open(folder, _FOLDER, dir_fd=here)
            os.close(here)
            here = below
        descriptor = os.open(name, _FILE, dir_fd=here)
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OutsideRoot("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def _steps(relative: str) -> tuple[list[str], str]:
    if not relative or relative.startswith("/"):
        raise OutsideRoot("the path must be relative")
    if "\0" in relative or "\\" in relative:
        raise OutsideRoot("the path holds a character that no path here has")
    steps = relative.split("/")
    if any(step in {"", ".", ".."} for step in steps):
        raise OutsideRoot("the path must name each folder plainly, without '.' or '..'")
    return steps[:-1], steps[-1]
