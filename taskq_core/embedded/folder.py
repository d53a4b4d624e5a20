"""The data folder: what one taskq on this machine owns, and the rules that guard it.

::

    format.json    version of this layout, of the servers that wrote the data, and when it was made
    lock           held by the process that uses the folder, names it
    token          the administrator's API key (0600)
    up.json        how to reach what runs now (0600)
    secrets.json   passwords of the embedded servers (0600)
    images/ files/ what tasks write
    valkey/ postgres/ run/   data of the servers, and their sockets and process ids
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import TypedDict

import msgspec

from taskq_core.embedded.find import FoundServer
from taskq_core.errors import AlreadyRunning, DataFolderError

FORMAT = 1
"""Version of this layout. A folder with a higher one is refused, one with a lower one is migrated."""

_FOLDERS = ("images", "files", "valkey", "run")
_HARMLESS = {"lock", ".gitignore", ".DS_Store", "lost+found"}
"""May lie in a folder that is about to become ours: traces of a first start, of a Mac, of a mount."""

_VALKEY_READS_REDIS_BELOW = (7, 4)
"""Redis 7.4 changed the file format after Valkey had left."""


class UpInfo(TypedDict):
    """What `up.json` says; null for what does not exist."""

    api: str | None
    dashboard: str | None
    dashboard_login: str | None
    token_file: str | None
    pid: int
    redis_url: str | None
    database_url: str | None


class FolderFormat(msgspec.Struct, frozen=True, omit_defaults=False):
    """What `format.json` says."""

    format: int
    created_at: str
    """RFC 3339, UTC."""
    valkey: str = ""
    """Kind and version of the last server that wrote `valkey/`, for example `valkey 9.1.2`."""
    postgres: str = ""
    """Major version of the PostgreSQL that wrote `postgres/`."""


class Secrets(msgspec.Struct, frozen=True):
    """Passwords of the embedded servers, made once per folder."""

    postgres: str
    valkey: str


class DataFolder:
    """A data folder; nothing is touched before `claim`, except by the readers of what is there."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser().absolute()
        self._lock: int | None = None

    @property
    def images(self) -> Path:
        """Where the sample tasks put images."""
        return self.path / "images"

    @property
    def files(self) -> Path:
        """Where uploads are kept."""
        return self.path / "files"

    @property
    def valkey(self) -> Path:
        """Valkey's data."""
        return self.path / "valkey"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's data."""
        return self.path / "postgres"

    @property
    def run(self) -> Path:
        """Sockets and process ids."""
        return self.path / "run"

    @property
    def token_file(self) -> Path:
        """The administrator's API key."""
        return self.path / "token"

    @property
    def up_file(self) -> Path:
        """How to reach what runs now."""
        return self.path / "up.json"

    @property
    def claimed(self) -> bool:
        """Whether this object holds the folder."""
        return self._lock is not None

    # --- taking possession ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(self) -> Generator[DataFolder]:
        """Hold the folder for the length of a `with`: see `acquire`."""
        self.acquire()
        try:
            yield self
        finally:
            self.release()

    def acquire(self) -> None:
        """Make the folder if need be, check that it is ours and readable, and hold it against others.

        Raises `DataFolderError` (foreign, broken, newer, not writable) or `AlreadyRunning` (names who).
        """
        if self._lock is not None:
            return
        try:
            self._refuse_foreign()
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._take_lock()
        except OSError as error:
            raise DataFolderError(
                f"cannot use {self.path} as data folder: {error.strerror or error}; "
                "choose another with --data"
            ) from error
        try:
            self._prepare()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let others have the folder; harmless when it is not held."""
        if self._lock is not None:
            os.close(self._lock)  # closing gives the lock back
            self._lock = None

    def _refuse_foreign(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise DataFolderError(f"{self.path} is a file; choose a folder with --data")
        if (self.path / "format.json").exists():
            return
        if any(entry.name not in _HARMLESS for entry in self.path.iterdir()):
            raise DataFolderError(
                f"{self.path} holds other files and is no taskq data folder; "
                "choose an empty or new one with --data"
            )

    def _take_lock(self) -> int:
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _read_pid(lock)
            os.close(lock)
            who = f"process {holder}" if holder else "another process"
            raise AlreadyRunning(
                f"{who} already runs taskq in {self.path}; stop it, or choose another folder with --data"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def _prepare(self) -> None:
        if (self.path / "format.json").exists():
            found = self.format()
            if found.format < FORMAT:
                self._migrate(found)
        else:
            self._write_format(FolderFormat(format=FORMAT, created_at=_now()))
            (self.path / ".gitignore").write_text("*\n", encoding="ascii")
        for name in _FOLDERS:
            (self.path / name).mkdir(mode=0o700, exist_ok=True)

    def _migrate(self, found: FolderFormat) -> None:
        """Bring an older layout up to date; there has been none before 1."""
        raise DataFolderError(
            f"{self.path} has data format {found.format}, which never existed; "
            "choose another folder with --data"
        )

    # --- format.json ------------------------------------------------------------------------------------

    def format(self) -> FolderFormat:
        """What `format.json` says; raises `DataFolderError` when it is broken or newer than this release."""
        file = self.path / "format.json"
        try:
            raw = file.read_bytes()
            version = msgspec.json.decode(raw, type=_OnlyFormat).format
            if version <= FORMAT:
                return msgspec.json.decode(raw, type=FolderFormat)
        except (OSError, msgspec.MsgspecError) as error:
            raise DataFolderError(
                f"{file} is broken ({error}); put a copy back, or choose another folder with --data"
            ) from error
        raise DataFolderError(
            f"{self.path} was written by a newer taskq (data format {version}, this one knows {FORMAT}); "
            "update taskq, or choose another folder with --data"
        )

    def note_valkey(self, server: FoundServer) -> None:
        """Record who writes `valkey/` now; raises `DataFolderError` if it cannot read what is there."""
        found = self.format()
        if found.valkey and not _can_read(found.valkey, server):
            raise DataFolderError(
                f"{self.valkey} was written by {found.valkey}, which {server.label} cannot read; "
                "install that version or a newer one, or choose another folder with --data"
            )
        if found.valkey != server.label:
            self._write_format(msgspec.structs.replace(found, valkey=server.label))

    def note_postgres(self, server: FoundServer) -> None:
        """Record whose data `postgres/` holds."""
        found = self.format()
        if found.postgres != str(server.major):
            self._write_format(msgspec.structs.replace(found, postgres=str(server.major)))

    def postgres_major(self) -> int | None:
        """Major version of the data in `postgres/`, None before the first start."""
        try:
            return int((self.postgres / "PG_VERSION").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataFolderError(
                f"{self.postgres} is damaged ({error}); "
                "put a backup back, or choose another folder with --data"
            ) from error

    def _write_format(self, value: FolderFormat) -> None:
        write_private(self.path / "format.json", msgspec.json.format(msgspec.json.encode(value)) + b"\n")

    # --- secrets, token, up.json ------------------------------------------------------------------------

    def secrets(self) -> Secrets:
        """The servers' passwords, made at the first call."""
        file = self.path / "secrets.json"
        if not file.exists():
            fresh = Secrets(postgres=secrets.token_urlsafe(24), valkey=secrets.token_urlsafe(24))
            write_private(file, msgspec.json.encode(fresh) + b"\n")
        try:
            return msgspec.json.decode(file.read_bytes(), type=Secrets)
        except (OSError, msgspec.MsgspecError) as error:
            raise DataFolderError(
                f"{file} is broken ({error}); put a copy back, or choose another folder with --data"
            ) from error

    def write_token(self, token: str) -> None:
        """Keep the administrator's API key, readable by its owner only."""
        write_private(self.token_file, token.encode() + b"\n")

    def read_token(self) -> str | None:
        """The administrator's API key, None before there is one."""
        try:
            return self.token_file.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    def write_up(self, info: UpInfo) -> None:
        """Say how to reach what runs; it holds passwords, so its owner alone may read it."""
        write_private(self.up_file, msgspec.json.format(msgspec.json.encode(info)) + b"\n")

    def read_up(self) -> UpInfo | None:
        """How to reach what runs here; None when nothing does, or what wrote it is dead."""
        try:
            info = msgspec.json.decode(self.up_file.read_bytes(), type=UpInfo)
        except (OSError, msgspec.MsgspecError):
            return None
        return info if pid_alive(info["pid"]) else None

    def remove_up(self) -> None:
        """Say that nothing runs any more."""
        self.up_file.unlink(missing_ok=True)


class _OnlyFormat(msgspec.Struct):
    """The one field that every version of `format.json` has."""

    format: int


def write_private(file: Path, content: bytes) -> None:
    """Replace a file in one step; nobody but its owner ever may read it, and no reader sees half of it."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)


def pid_alive(pid: int) -> bool:
    """Whether a process of this id exists, ours or not."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_pid(descriptor: int) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(os.pread(descriptor, 32, 0))
    return None


def _now() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _can_read(written_by: str, server: FoundServer) -> bool:
    """Whether a server can load what another one (`kind version`) wrote."""
    kind, _, text = written_by.partition(" ")
    numbers = tuple(int(part) for part in text.split(".") if part.isdigit())
    if kind == server.kind:
        return server.version[:2] >= numbers[:2]
    return kind == "redis" and server.kind == "valkey" and numbers[:2] < _VALKEY_READS_REDIS_BELOW
