"""An exception as the history keeps it."""

from __future__ import annotations

import hashlib
import traceback
from pathlib import Path

from taskq_core.model.codec import MAX_RESULT, encode_json

__all__ = ["describe", "describe_large_result", "describe_text", "readable"]

MAX_TRACEBACK = 64 * 1024
MAX_MESSAGE = 4 * 1024
# Frames of the worker itself say nothing about the task.
_OWN = str(Path(__file__).parent)


def _clean(text: str, limit: int) -> str:
    """Text that Postgres can hold, cut with a mark where it was too long."""
    text = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return text


def describe(error: BaseException) -> str:
    """Raw JSON {type, message, traceback, fingerprint}. No values of local variables are kept."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OWN)
    ]
    lines = traceback.format_list(traceback.StackSummary.from_list(frames))
    lines += traceback.format_exception_only(error)
    places = [f"{Path(frame.filename).name}:{frame.name}" for frame in frames]
    kind = type(error)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return _packed(name, _message(error), "".join(lines), places)


def readable(error: BaseException) -> str:
    """The traceback for a person at a terminal: only the frames of their own code."""
    own = (str(Path(__file__).parent.parent), "<frozen importlib")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(own) and "/importlib/" not in frame.filename
    ]
    lines = traceback.format_list(frames) + list(traceback.format_exception_only(error))
    return "".join(lines).rstrip()


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001  # __str__ is user code
        return f"(its message could not be read: {type(broken).__name__})"


def describe_text(kind: str, message: str, trace: str = "") -> str:
    """The same for a failure that was no exception: a crash, a time limit, an unfit payload."""
    return _packed(kind, message, trace or None, [])


def describe_large_result(size: int) -> str:
    """The same for a result over the limit; `size` in characters of JSON."""
    message = f"the result has {size} characters; the limit is {MAX_RESULT}: store it and return a reference"
    return describe_text("result_too_large", message)


def _packed(kind: str, message: str, trace: str | None, places: list[str]) -> str:
    fingerprint = hashlib.blake2b(
        "|".join([kind, *places]).encode("utf-8", "replace"), digest_size=6
    ).hexdigest()
    return encode_json(
        {
            "type": _clean(kind, 300),
            "message": _clean(message, MAX_MESSAGE),
            "traceback": None if trace is None else _clean(trace, MAX_TRACEBACK),
            "fingerprint": fingerprint,
        }
    ).decode()
