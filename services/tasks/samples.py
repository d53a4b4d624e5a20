"""Sample pictures, drawn by code, so that the first resize works before anybody has found a photograph."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

__all__ = ["SAMPLES", "draw_samples"]

type Colour = tuple[int, int, int]
type Stops = Sequence[tuple[float, Colour]]  # 0 top … 1 bottom

WIDE = (1600, 1200)
_DUSK: Stops = ((0.0, (24, 32, 82)), (0.45, (146, 78, 128)), (0.8, (250, 150, 96)), (1.0, (255, 214, 150)))
_DAY: Stops = ((0.0, (58, 122, 196)), (0.6, (150, 200, 232)), (1.0, (232, 242, 244)))
_NIGHT: Stops = ((0.0, (6, 10, 32)), (0.7, (22, 42, 86)), (1.0, (44, 80, 120)))


def draw_samples(images: Path) -> list[Path]:
    """Draw the samples that are missing in the folder; answers what was drawn.

    The same bytes on every machine with the same Pillow. A file that is there is never touched.
    """
    images.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    for name, (draw, options) in SAMPLES.items():
        target = images / name
        if target.exists():
            continue
        unfinished = target.with_name(f".{os.getpid()}.{name}")
        first, *others = draw()
        more: dict[str, Any] = {"save_all": True, "append_images": others} if others else {}
        first.save(unfinished, **options, **more)
        unfinished.replace(target)
        drawn.append(target)
    return drawn


def _harbour() -> list[Image.Image]:
    """A harbour at dusk, mirrored in the water."""
    width, height = WIDE
    shore = height * 6 // 10
    picture = Image.new("RGB", WIDE)
    sky = _gradient((width, shore), _DUSK)
    pen = ImageDraw.Draw(sky)
    pen.ellipse((1020, shore - 210, 1240, shore + 10), fill=(255, 226, 170))
    _hills(pen, (width, shore), (0.74, (92, 62, 110)), seed=3)
    _hills(pen, (width, shore), (0.86, (58, 44, 92)), seed=8)
    _town(pen, width, shore)
    picture.paste(sky, (0, 0))
    mirror = sky.transpose(Image.Transpose.FLIP_TOP_BOTTOM).crop((0, 0, width, height - shore))
    mirror = mirror.filter(ImageFilter.BoxBlur(3)).point(lambda level: level * 0.72)
    picture.paste(mirror, (0, shore))
    pen = ImageDraw.Draw(picture)
    _ripples(pen, width, (shore, height))
    for left, top, size in ((260, 700, 150), (640, 790, 220), (1180, 740, 170)):
        _boat(pen, left, top, size)
    return [picture]


def _ridges() -> list[Image.Image]:
    """Hills behind hills in the haze of noon."""
    size = (1200, 800)
    picture = _gradient(size, _DAY)
    pen = ImageDraw.Draw(picture)
    for step in range(6):
        shade = 1 - step / 7
        colour = (int(70 + 120 * shade), int(104 + 100 * shade), int(96 + 120 * shade))
        _hills(pen, size, (0.42 + step * 0.1, colour), seed=20 + step)
    return [picture]


def _badge() -> list[Image.Image]:
    """A round badge on nothing: a picture with transparency."""
    picture = Image.new("RGBA", (800, 800), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    for step in range(60):
        edge = 40 + step * 4
        pen.ellipse(
            (edge, edge, 799 - edge, 799 - edge), fill=(20 + step * 3, 110 + step * 2, 170, 90 + step * 2)
        )
    for spoke in range(12):
        angle = spoke * math.pi / 6
        x, y = 400 + 300 * math.cos(angle), 400 + 300 * math.sin(angle)
        pen.line((400, 400, x, y), fill=(255, 255, 255, 200), width=10)
        pen.ellipse((x - 26, y - 26, x + 26, y + 26), fill=(250, 170, 80, 255))
    return [picture]


def _lighthouse() -> list[Image.Image]:
    """A lighthouse whose beam turns, frame by frame."""
    size = (480, 320)
    sky = _gradient(size, _NIGHT)
    pen = ImageDraw.Draw(sky)
    chance = Random(5)
    for _ in range(160):
        x, y = chance.randrange(size[0]), chance.randrange(220)
        pen.point((x, y), fill=(220, 224, 240))
    _hills(pen, size, (0.84, (8, 14, 26)), seed=4)
    frames: list[Image.Image] = []
    for turn in range(8):
        frame = sky.copy()
        beam = ImageDraw.Draw(frame, "RGBA")
        reach = math.cos(turn * math.pi / 4) * 460
        beam.polygon(((356, 168), (356 + reach, 96), (356 + reach, 214)), fill=(255, 244, 190, 110))
        beam.polygon(((346, 280), (351, 168), (361, 168), (366, 280)), fill=(226, 226, 232, 255))
        frames.append(frame.quantize(64))
    return frames


def _gradient(size: tuple[int, int], stops: Stops) -> Image.Image:
    # One column, then stretched: a thousand times less to compute.
    column = Image.new("RGB", (1, size[1]))
    column.putdata([_between(stops, row / (size[1] - 1)) for row in range(size[1])])
    return column.resize(size, Image.Resampling.NEAREST)


def _between(stops: Stops, at: float) -> Colour:
    for (low, first), (high, second) in pairwise(stops):
        if at <= high:
            part = (at - low) / (high - low)
            red, green, blue = (round(a + (b - a) * part) for a, b in zip(first, second, strict=True))
            return (red, green, blue)
    return stops[-1][1]


def _hills(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], layer: tuple[float, Colour], *, seed: int
) -> None:
    """A wavy silhouette around the given part of the height, filled to the bottom."""
    level, colour = layer
    width, height = size
    chance = Random(seed)
    waves = [(chance.uniform(1.5, 9.0), chance.uniform(0, 6.3), chance.uniform(0.01, 0.05)) for _ in range(4)]
    outline: list[tuple[float, float]] = [(0, height)]
    for x in range(0, width + 8, 8):
        lift = sum(swing * math.sin(often * x / width * 6.3 + shift) for often, shift, swing in waves)
        outline.append((x, height * (level - lift)))
    pen.polygon([*outline, (width, height)], fill=colour)


def _town(pen: ImageDraw.ImageDraw, width: int, shore: int) -> None:
    chance = Random(11)
    left = 0
    while left < width:
        wide, high = chance.randrange(44, 96), chance.randrange(50, 150)
        shade = chance.randrange(24, 44)
        pen.rectangle((left, shore - high, left + wide, shore), fill=(shade + 12, shade, shade + 34))
        pen.polygon(
            ((left, shore - high), (left + wide / 2, shore - high - 26), (left + wide, shore - high)),
            fill=(shade + 40, shade + 8, shade + 24),
        )
        for window in range(left + 10, left + wide - 12, 20):
            if chance.random() < 0.6:
                top = shore - chance.randrange(20, high)
                pen.rectangle((window, top, window + 8, top + 12), fill=(255, 214, 130))
        left += wide + chance.randrange(0, 10)


def _ripples(pen: ImageDraw.ImageDraw, width: int, rows: tuple[int, int]) -> None:
    chance = Random(17)
    for _ in range(420):
        y = chance.randrange(*rows)
        long = (y - rows[0]) / 4 + chance.randrange(10, 50)
        x = chance.randrange(width)
        glow = chance.randrange(110, 210)
        pen.line(
            (x, y, x + long, y), fill=(glow, glow * 2 // 3, glow * 3 // 5), width=1 + (y - rows[0]) // 200
        )


def _boat(pen: ImageDraw.ImageDraw, left: int, top: int, size: int) -> None:
    hull = size * 0.22
    pen.polygon(
        ((left, top), (left + size, top), (left + size * 0.82, top + hull), (left + size * 0.14, top + hull)),
        fill=(36, 26, 44),
    )
    mast = left + size * 0.46
    pen.line((mast, top, mast, top - size), fill=(30, 22, 38), width=max(2, size // 50))
    pen.polygon(
        ((mast + 5, top - size * 0.96), (mast + 5, top - size * 0.1), (left + size * 0.94, top - size * 0.1)),
        fill=(246, 232, 214),
    )
    pen.polygon(
        ((mast - 5, top - size * 0.84), (mast - 5, top - size * 0.1), (left + size * 0.06, top - size * 0.1)),
        fill=(214, 120, 98),
    )


# The first one is in the line that `taskq up` prints.
SAMPLES: dict[str, tuple[Callable[[], list[Image.Image]], dict[str, Any]]] = {
    "harbour.jpg": (_harbour, {"quality": 88}),
    "ridges.webp": (_ridges, {"quality": 80, "method": 0}),
    "badge.png": (_badge, {"compress_level": 1}),
    "lighthouse.gif": (_lighthouse, {"duration": 140, "loop": 0}),
}
