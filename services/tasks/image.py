"""`image.resize`: pictures made smaller."""

from __future__ import annotations

import errno
import os
from typing import Annotated, Literal, NamedTuple, TypedDict, cast

import msgspec

from services.tasks.data_folder import files_folder, images_folder
from services.tasks.files import FileStore
from services.tasks.picture import BadPicture, Box, Format, Picture, encode, read_picture
from services.tasks.rooted import OutsideRoot, open_beneath
from taskq_core.errors import NotFound, Permanent

__all__ = ["Resized", "resize"]

type Side = Annotated[int, msgspec.Meta(ge=1, le=10_000, description="pixels")]
type Source = Annotated[
    str,
    msgspec.Meta(min_length=1, max_length=1000, description="a path under <data>/images, or upload:<sha256>"),
]
type Sizes = Annotated[
    list[tuple[Side, Side]],
    msgspec.Meta(min_length=1, max_length=20, description="boxes to fit into: [width, height]"),
]
type FormatName = Literal["JPEG", "PNG", "WEBP", "GIF", "jpeg", "png", "webp", "gif"]

UPLOAD = "upload:"
MAX_SOURCE = 64 * 1024 * 1024  # bytes
# What opening a path says when a second try would say it again; ELOOP is a symbolic link.
_ABSENT = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.EACCES,
        errno.ENAMETOOLONG,
        errno.ENXIO,
        errno.EMLINK,  # FreeBSD's word for ELOOP
    }
)


class SourceInfo(TypedDict):
    """The picture as it came."""

    width: int  # as it is meant to be seen: a photograph taken upright is higher than wide
    height: int
    format: str
    bytes: int


class OutputInfo(TypedDict):
    """One picture that was made. `GET /api/<path>` serves it."""

    path: str
    width: int
    height: int
    format: str
    bytes: int
    sha256: str


class Resized(TypedDict):
    """What `image.resize` gives."""

    source: SourceInfo
    outputs: list[OutputInfo]


class _Job(NamedTuple):
    picture: Picture
    format: Format
    store: FileStore


def resize(source: Source, sizes: Sizes, format: FormatName | None = None) -> Resized:
    """Shrink a picture to fit into each box, keeping its aspect ratio; never enlarges.

    Reads JPEG, PNG, WEBP and GIF (of an animation the first frame), turns it as its EXIF data says, and
    writes the format of the source unless told another. A picture that cannot be read fails once: a second
    try would read the same bytes.
    """
    store = FileStore(files_folder())
    content = _read_source(source, store)
    boxes = [Box(*size) for size in sizes]
    try:
        picture = read_picture(content, boxes)
    except BadPicture as error:
        raise Permanent(f"{source}: {error}") from error
    # A type checker cannot follow upper().
    job = _Job(picture, cast(Format, format.upper()) if format else picture.format, store)
    made = {box: _make(job, box) for box in dict.fromkeys(boxes)}
    return Resized(
        source=SourceInfo(
            width=picture.size.width,
            height=picture.size.height,
            format=picture.format,
            bytes=len(content),
        ),
        outputs=[made[box] for box in boxes],
    )


def _make(job: _Job, box: Box) -> OutputInfo:
    small = job.picture.shrink(box)
    content = encode(small, job.format, job.picture.profile)
    sha256 = job.store.put(content)
    return OutputInfo(
        path=f"files/{sha256}",
        width=small.width,
        height=small.height,
        format=job.format,
        bytes=len(content),
        sha256=sha256,
    )


def _read_source(source: str, store: FileStore) -> bytes:
    try:
        if source.startswith(UPLOAD):
            file = store.open(source.removeprefix(UPLOAD))
        else:
            file = open_beneath(images_folder(), source)
    except OutsideRoot as error:
        raise Permanent(f"source {source!r}: {error}") from error
    except NotFound as error:
        raise Permanent(str(error)) from error
    except OSError as error:
        if error.errno not in _ABSENT:  # a full table of open files is no fault of the task
            raise
        raise Permanent(f"source {source!r}: no such picture under <data>/images") from error
    with file:
        if os.fstat(file.fileno()).st_size > MAX_SOURCE:
            raise Permanent(f"source {source!r} is larger than {MAX_SOURCE // 2**20} MiB")
        return file.read(MAX_SOURCE)
