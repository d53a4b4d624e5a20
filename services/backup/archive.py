"""The file: a gzipped tar of parts, under a manifest with the digest of each."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from taskq_core.errors import ConfigError

__all__ = ["FOLDERS", "FORMAT", "HISTORY", "REDIS", "Manifest", "Part", "Table", "describe", "pack", "unpack"]

FORMAT = 1
REDIS = "redis.rdb"
HISTORY = "history"  # folder: one file per table
FOLDERS = ("images", "files")  # of the data folder

_MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 16 << 20


class Part(msgspec.Struct, frozen=True):
    """One file of the backup."""

    bytes: int
    sha256: str


class Table(msgspec.Struct, frozen=True):
    """A table of the history: its columns in the order of the copy."""

    columns: list[str]
    rows: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the backup holds, and what it takes to read it."""

    format: int
    taken_at: str  # RFC 3339, by Redis's clock
    taskq: str  # version that wrote it
    redis: str  # kind and version of the server
    postgres: str
    schema: list[str]  # migrations that were applied
    position: list[int] | None  # incarnation, ms, seq, n: where the history ends
    head: int  # number of the newest event in Redis
    tables: dict[str, Table]
    parts: dict[str, Part]


def pack(target: Path, staging: Path, manifest: Manifest) -> None:
    """Write the archive in one step: under its name there is a whole one or none."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    (staging / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            with tarfile.open(fileobj=out, mode="w:gz", compresslevel=3) as archive:
                for name in (_MANIFEST, *manifest.parts):
                    archive.add(staging / name, arcname=name, recursive=False)
            out.flush()
            os.fsync(out.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def describe(staging: Path) -> dict[str, Part]:
    """The parts that lie in a folder, by their path in it."""
    files = sorted(path for path in staging.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(staging).as_posix(): _part(path) for path in files}


def _part(path: Path) -> Part:
    with path.open("rb") as file:
        return Part(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def unpack(source: Path, staging: Path) -> Manifest:
    """Unpack into an empty folder and check every part. Raises ConfigError for what is no whole backup."""
    try:
        with tarfile.open(source, "r:gz") as archive:
            manifest = _read_manifest(source, archive)
            for name in manifest.parts:
                archive.extract(name, staging, filter="data")  # refuses links and ways out of the folder
    except (tarfile.TarError, KeyError, EOFError, OSError, ValueError) as error:
        raise ConfigError(f"{source} is no whole taskq backup ({error}); take another one") from error
    _check(source, staging, manifest.parts)
    return manifest


def _read_manifest(source: Path, archive: tarfile.TarFile) -> Manifest:
    file = archive.extractfile(_MANIFEST)
    raw = file.read(_LARGEST_MANIFEST) if file else b""
    version = msgspec.json.decode(raw, type=dict[str, object]).get("format")
    if version != FORMAT:
        raise ConfigError(f"{source} has backup format {version}, this release knows {FORMAT}; update taskq")
    return msgspec.json.decode(raw, type=Manifest)


def _check(source: Path, staging: Path, parts: Mapping[str, Part]) -> None:
    for name, part in parts.items():
        if _part(staging / name) != part:
            raise ConfigError(f"{source} is damaged: {name} differs from what was written; take another one")
