"""The sample pictures in the data folder."""

from __future__ import annotations

from pathlib import Path

__all__ = ["FIRST_SAMPLE", "make_samples"]

FIRST_SAMPLE = "harbour.jpg"  # in the line of the card
_LAST_SAMPLE = "lighthouse.gif"  # drawn last: with it all are there


def make_samples(images: Path) -> None:
    """Draw what is missing; only a first start needs the drawing library, which is slow to import."""
    if (images / FIRST_SAMPLE).exists() and (images / _LAST_SAMPLE).exists():
        return
    from services.tasks.samples import draw_samples  # noqa: PLC0415  # see above

    draw_samples(images)
