"""Files over HTTP: uploads go to disk as they come, stored files are sent piece by piece."""

from __future__ import annotations

import asyncio
import os
from typing import BinaryIO

import msgspec

from services.api.core import Core
from services.api.endpoints.route import Body, NoQuery, read_query
from services.api.handlers import ApiHandler
from services.api.problems import MethodNotAllowed, UnsupportedMediaType
from services.tasks.files import MAX_UPLOAD, Incoming
from taskq_core.access.scopes import Scope
from taskq_core.errors import InvalidOption

__all__ = ["FileHandler", "UploadHandler", "Uploaded", "sniff"]

CHUNK = 256 * 1024
UPLOAD_S = 300.0  # for 32 MiB over a slow line
_FORMS = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})
_BODY = Body(limit=MAX_UPLOAD, media=())
_HEAD_BYTES = 16


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """A stored upload; `source` is what `image.resize` takes."""

    sha256: str
    bytes: int
    source: str


class UploadHandler(ApiHandler):
    """POST /api/uploads: the raw bytes of one file."""

    route = "/api/uploads"

    def initialize(self, core: Core) -> None:  # noqa: D102
        super().initialize(core)
        self._incoming: Incoming | None = None

    async def admit(self) -> None:
        """Method, key, type and size."""
        if self.request.method != "POST":
            raise MethodNotAllowed("POST")
        await self.authenticate(Scope.SUBMIT)
        _ = read_query(NoQuery, self.request.query_arguments)
        if self.expect_body(_BODY) in _FORMS:
            raise UnsupportedMediaType("send the bytes of the file themselves, not a form")
        self.connection.set_body_timeout(UPLOAD_S)
        self._incoming = self.core.files.incoming(MAX_UPLOAD)

    def take(self, chunk: bytes) -> None:
        """Write a piece."""
        if self._incoming is not None:
            self._incoming.write(chunk)

    async def execute(self, *path: str) -> None:  # noqa: ARG002
        """Make the file visible."""
        incoming, self._incoming = self._incoming, None  # from here on it is ours to drop
        if incoming is None:
            return
        with incoming:
            if incoming.size == 0:
                raise InvalidOption("the request has no body")
            sha256 = await asyncio.to_thread(incoming.commit)
        body = Uploaded(sha256=sha256, bytes=incoming.size, source=f"upload:{sha256}")
        self.reply(body, 201, {"Location": f"/api/files/{sha256}"})

    def on_finish(self) -> None:
        """Drop what was not committed."""
        super().on_finish()
        self._discard()

    def on_connection_close(self) -> None:
        """Drop what has come."""
        super().on_connection_close()
        self._discard()

    def _discard(self) -> None:
        if self._incoming is not None:
            self._incoming.discard()


class FileHandler(ApiHandler):
    """GET /api/files/{sha256}: the same name means the same bytes, for ever."""

    route = "/api/files/{sha256}"

    async def admit(self) -> None:
        """Method, key."""
        if self.request.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed("GET")
        await self.authenticate(Scope.READ)
        _ = read_query(NoQuery, self.request.query_arguments)

    async def execute(self, *path: str) -> None:
        """Send it."""
        (sha256,) = path
        with self.core.files.open(sha256) as file:
            tag = f'"{sha256}"'
            self.set_header("ETag", tag)
            self.set_header("Cache-Control", "private, max-age=86400, immutable")
            if self.request.headers.get("If-None-Match") == tag:
                self.set_status(304)
                return
            self._describe(file, sha256)
            if self.request.method == "HEAD":
                return
            while chunk := file.read(CHUNK):
                self.write(chunk)  # pyright: ignore[reportUnknownMemberType]  # Tornado's `dict`
                await self.flush()

    def _describe(self, file: BinaryIO, sha256: str) -> None:
        """A picture may be shown, anything else only saved; neither may run anything."""
        kind = sniff(file.read(_HEAD_BYTES))
        _ = file.seek(0)
        suffix, place = (kind.partition("/")[2], "inline") if kind else ("bin", "attachment")
        self.set_header("Content-Type", kind or "application/octet-stream")
        self.set_header("Content-Length", str(os.fstat(file.fileno()).st_size))
        self.set_header("Content-Disposition", f'{place}; filename="{sha256[:12]}.{suffix}"')
        self.set_header("Content-Security-Policy", "default-src 'none'; sandbox")


def sniff(head: bytes) -> str:
    """The type of a picture by its first 16 bytes; empty for anything else."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head[:6] in {b"GIF87a", b"GIF89a"}:
        return "image/gif"
    return "image/webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else ""
