"""Help with misspelt words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]

MOST = 15  # words that a message lists


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """A clause that names the closest known word, or lists them when none is close.

    `prefix` is shown before each known word, and counts for nothing.
    """
    names = sorted(known)
    by_case = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(word.casefold(), by_case, n=1, cutoff=0.6)
    if close:
        return f"did you mean {prefix + by_case[close[0]]!r}?"
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return (
        f"known are {', '.join(prefix + name for name in names[:MOST])}{more}"
        if names
        else "there is none yet"
    )
