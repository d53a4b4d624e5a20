"""Files known by the SHA-256 of their content: what callers upload and what tasks produce.

A name is made from the bytes alone, so no caller can choose where something is written, the same content
is stored once, and a file that is there is complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from taskq_core.errors import NotFound, TooLarge

__all__ = ["MAX_UPLOAD", "FileStore", "Incoming"]

MAX_UPLOAD = 32 * 1024 * 1024  # bytes
CHUNK = 256 * 1024
STALE_S = 3600.0
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


class FileStore:
    """Files under one folder, each at `<first two hex digits>/<sha256>`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, content: bytes | BinaryIO, limit: int | None = None) -> str:
        """Keep the content, whole or not at all; answers its SHA-256 in hex.

        `limit` is in bytes: TooLarge above it.
        """
        with self.incoming(limit) as incoming:
            if isinstance(content, bytes):
                incoming.write(content)
            else:
                while chunk := content.read(CHUNK):
                    incoming.write(chunk)
            return incoming.commit()

    def incoming(self, limit: int | None = None) -> Incoming:
        """A file that arrives piece by piece; use it in a `with` block."""
        return Incoming(self.root, limit)

    def path(self, sha256: str) -> Path:
        """Where this content is, or would be. Raises NotFound when it is no SHA-256 in lower-case hex."""
        if not _DIGEST.fullmatch(sha256):
            raise NotFound("a file's name is its SHA-256: 64 hex digits in lower case")
        return self.root / sha256[:2] / sha256

    def open(self, sha256: str) -> BinaryIO:
        """The content, for reading. Raises NotFound."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path(sha256), flags)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ELOOP}:
                raise
            raise NotFound(f"no file {sha256}; it was never stored here, or was removed") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NotFound(f"no file {sha256}")
        return os.fdopen(descriptor, "rb")

    def size(self, sha256: str) -> int:
        """Bytes of a stored file. Raises NotFound."""
        with self.open(sha256) as file:
            return os.fstat(file.fileno()).st_size

    def remove_unfinished(self, older_than_s: float = STALE_S) -> int:
        """Remove what killed writers left behind; answers how many files that were."""
        removed = 0
        for leftover in _incoming_folder(self.root).glob("*.part"):
            with suppress(FileNotFoundError):  # its writer has just finished
                if time.time() - leftover.stat().st_mtime > older_than_s:
                    leftover.unlink()
                    removed += 1
        return removed


class Incoming:
    """Content on its way into the store; it has no name until `commit`, and is dropped without it."""

    def __init__(self, root: Path, limit: int | None) -> None:
        self._root = root
        self._limit = limit
        self._digest = hashlib.sha256()
        self.size = 0
        folder = _incoming_folder(root)
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(suffix=".part", dir=folder)
        self._file = os.fdopen(descriptor, "wb")
        self._temporary = Path(name)

    def write(self, chunk: bytes) -> None:
        """Add bytes. Raises TooLarge above the limit; the content is dropped at the end of the block."""
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            raise TooLarge(f"the file is larger than {self._limit} bytes")
        self._digest.update(chunk)
        self._file.write(chunk)

    def commit(self) -> str:
        """Make the content visible under its SHA-256, which is the answer."""
        sha256 = self._digest.hexdigest()
        self._file.flush()
        # Without this a power cut may leave an empty file under a name that promises its content.
        os.fsync(self._file.fileno())
        self._file.close()
        target = self._root / sha256[:2] / sha256
        target.parent.mkdir(exist_ok=True)
        self._temporary.replace(target)
        return sha256

    def discard(self) -> None:
        """Drop what has not been committed; doing it twice, or after `commit`, changes nothing."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def _incoming_folder(root: Path) -> Path:
    # Inside the root, so that the last step is a rename within one file system.
    return root / "incoming"
