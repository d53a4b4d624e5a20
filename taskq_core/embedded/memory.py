"""How much memory this machine, or the container around us, has to give."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SHARE = 0.75
"""The part that Valkey may use; the rest is for workers, PostgreSQL and the copy made by a rewrite."""

FALLBACK = 1 << 30
"""Bytes assumed where neither the host nor a cgroup tells."""

_CGROUP = Path("/sys/fs/cgroup")


def memory_limit() -> int:
    """Bytes that an embedded Valkey may use: 75 % of the cgroup's limit or the host's memory."""
    known = [size for size in (_host_memory(), _cgroup_memory(_CGROUP)) if size]
    return int(min(known, default=FALLBACK) * SHARE)


def _host_memory() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _cgroup_memory(root: Path) -> int | None:
    """The smallest limit on the way from our own group up to `root`; None without one."""
    limits = [
        size
        for folder, name in ((root, "memory.max"), (root / "memory", "memory.limit_in_bytes"))
        for group in _own_groups(folder)
        if (size := _read_size(group / name))
    ]
    return min(limits, default=None)


def _own_groups(folder: Path) -> list[Path]:
    """The folder itself and every group below it that this process is in."""
    found = [folder]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in {"", "memory"}:
                own = folder / path.lstrip("/")
                found += [own, *(p for p in own.parents if p.is_relative_to(folder))]
    return found


def _read_size(file: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text(encoding="ascii"))  # "max" is a ValueError: no limit
    return None
