"""Opaque cursors: what a page or a follower needs to go on, in a form that nobody should look into."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

import msgspec

from taskq_core.errors import InvalidOption

__all__ = ["decode_cursor", "encode_cursor"]

MAX_CURSOR = 4096  # characters


def encode_cursor(kind: str, *values: int | str | list[Any]) -> str:
    """The cursor of a kind of list."""
    return urlsafe_b64encode(msgspec.json.encode([kind, *values])).decode().rstrip("=")


def decode_cursor[T](kind: str, cursor: str, form: type[T]) -> T:
    """The values behind the kind, converted to `form` (a tuple type). Raises InvalidOption."""
    try:
        if len(cursor) > MAX_CURSOR:
            raise ValueError(cursor[:20])
        raw: Any = msgspec.json.decode(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=list[Any])
        found, *values = raw
        if found != kind:
            raise ValueError(found)
        return msgspec.convert(values, form)
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise InvalidOption("the cursor is not one that this list gave") from error
