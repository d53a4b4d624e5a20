"""Reading, shrinking and writing one picture, given as bytes that nobody should trust.

Only the first frame of an animation is read: a page of thumbnails wants a still, and a file with 100,000
frames costs no more than one. No other frame is ever sought, so none can be larger than what was checked.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal, NamedTuple

from PIL import Image, UnidentifiedImageError

__all__ = ["MAX_PIXELS", "BadPicture", "Box", "Format", "Picture", "encode", "fit", "read_picture"]

type Format = Literal["JPEG", "PNG", "WEBP", "GIF"]

MAX_PIXELS = 40_000_000
MAX_PROFILE = 256 * 1024  # bytes; a colour profile beyond that is no colour profile
# Decoding at less than this many times the wanted size would show in the result.
DRAFT_MARGIN = 2
REDUCING_GAP = 3.0
FORMATS: tuple[Format, ...] = ("JPEG", "PNG", "WEBP", "GIF")
_KNOWN: dict[str, Format] = {name: name for name in FORMATS}
ORIENTATION = 0x0112
WHITE = (255, 255, 255)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})
_SAVING: dict[Format, dict[str, Any]] = {
    "JPEG": {"quality": 85},
    "PNG": {"compress_level": 6},
    "WEBP": {"quality": 82, "method": 4},
    "GIF": {},
}


class BadPicture(ValueError):
    """The bytes are no picture that may be read; the message says why."""


class Box(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class Picture(NamedTuple):
    """A decoded picture, still lying as the camera held it."""

    image: Image.Image
    size: Box  # of the source, as it is meant to be seen
    format: Format
    orientation: int  # EXIF: 1 upright … 8
    profile: bytes | None  # ICC

    def shrink(self, box: Box) -> Image.Image:
        """An upright copy that fits into the box. Never larger than the source."""
        size = fit(self.size, box)
        lying = Box(size.height, size.width) if self.orientation in _SIDEWAYS else size
        small = self.image.resize(lying, Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
        turn = _TURNS.get(self.orientation)
        return small if turn is None else small.transpose(turn)


def fit(size: Box, box: Box) -> Box:
    """The largest size of the same aspect ratio that fits into the box, at most `size` itself."""
    if size.width <= box.width and size.height <= box.height:
        return size
    # Whole numbers: a rounded ratio could stick out of the box by a pixel.
    if size.width * box.height >= size.height * box.width:
        return Box(box.width, max(1, round(size.height * box.width / size.width)))
    return Box(max(1, round(size.width * box.height / size.height)), box.height)


def read_picture(content: bytes, boxes: Sequence[Box]) -> Picture:
    """Decode a picture, no finer than the boxes ask for. Raises BadPicture.

    Turns warnings into errors for the whole process while it runs: call it where one task runs at a time.
    """
    with _strict():
        image = Image.open(BytesIO(content), formats=FORMATS)
        _check_pixels(image)
        orientation = _orientation(image)
        size = Box(*reversed(image.size)) if orientation in _SIDEWAYS else Box(*image.size)
        image.draft(None, _draft_size(size, boxes, sideways=orientation in _SIDEWAYS))
        image.load()
        _check_pixels(image)
        profile = image.info.get("icc_profile")
        plain = _plain(image)
        kept = _keep_profile(profile, image.mode, plain.mode)
        return Picture(plain, size, _format(image), orientation, kept)


def encode(image: Image.Image, format: Format, profile: bytes | None = None) -> bytes:
    """The file of a picture. It carries no EXIF: where it was taken is nobody's business."""
    options = dict(_SAVING[format])
    if profile is not None and format != "GIF":
        options["icc_profile"] = profile
    file = BytesIO()
    (_flat(image) if format == "JPEG" else image).save(file, format, **options)
    return file.getvalue()


@contextmanager
def _strict() -> Generator[None]:
    """Any complaint of the decoder means that the file is bad, and a bad file stays bad."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # EXIF is read with the TIFF code; cameras write it badly, and only the orientation is wanted.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
            yield
    except (BadPicture, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadPicture("it is not a JPEG, PNG, WEBP or GIF picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadPicture(f"it has more than {MAX_PIXELS // 1_000_000} million pixels") from None
    except Exception as error:
        # The decoders raise nearly every built-in error on a broken file, struct.error and SyntaxError too.
        raise BadPicture(f"it is broken: {error}") from error


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise BadPicture(
            f"it has {image.width} × {image.height} pixels; the limit is {MAX_PIXELS // 1_000_000} million"
        )


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001  # broken EXIF raises anything; the picture itself may be fine
        return 1
    return value if value in _TURNS else 1


def _draft_size(size: Box, boxes: Sequence[Box], *, sideways: bool) -> Box:
    wanted = [fit(size, box) for box in boxes]
    width = DRAFT_MARGIN * max((box.width for box in wanted), default=size.width)
    height = DRAFT_MARGIN * max((box.height for box in wanted), default=size.height)
    return Box(height, width) if sideways else Box(width, height)


def _format(image: Image.Image) -> Format:
    # A JPEG with more pictures behind the first one (a depth map, a preview) calls itself MPO.
    return _KNOWN.get(image.format or "", "JPEG")


def _plain(image: Image.Image) -> Image.Image:
    """The same picture in a mode that can be scaled smoothly: L, LA, RGB or RGBA."""
    if image.mode in {"RGB", "L"} and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey; a plain conversion would cut off all above 255
        return image.convert("I").point(lambda level: level / 257).convert("L")
    if image.mode in {"LA", "RGBA"}:
        return image
    if image.mode == "1":
        return image.convert("L")
    clear = "transparency" in image.info or image.mode in {"PA", "La", "RGBa"}
    return image.convert("RGBA" if clear else "RGB")


def _keep_profile(profile: object, before: str, after: str) -> bytes | None:
    """A profile describes the numbers of one colour model; after a conversion it would lie."""
    same = before.rstrip("A") == after.rstrip("A") or (before == "P" and after.startswith("RGB"))
    return profile if same and isinstance(profile, bytes) and len(profile) <= MAX_PROFILE else None


def _flat(image: Image.Image) -> Image.Image:
    if image.mode not in {"RGBA", "LA"}:
        return image
    ground = Image.new("RGBA", image.size, (*WHITE, 255))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
