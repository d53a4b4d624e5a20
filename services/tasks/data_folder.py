"""Where the sample tasks read and write."""

from __future__ import annotations

import os
from pathlib import Path

from taskq_core.errors import ConfigError

__all__ = ["data_folder", "files_folder", "images_folder"]


def data_folder() -> Path:
    """The data folder that `taskq up` hands to its children. Raises ConfigError when nothing names one."""
    home = os.environ.get("TASKQ_HOME")
    if not home:
        raise ConfigError("TASKQ_HOME is not set; start the worker with ./run, or set it to the data folder")
    return Path(home)


def images_folder() -> Path:
    """Pictures that a payload may name by their path."""
    return data_folder() / "images"


def files_folder() -> Path:
    """The store of uploads and results; see `files.FileStore`."""
    return data_folder() / "files"
