"""JSON as taskq accepts it: what Postgres could not store, or a reader could misread, is refused here.

Refused: anything that is not UTF-8 JSON, NaN and Infinity, numbers beyond a double's range or with more
than 400 digits, the character U+0000, lone surrogates, duplicate keys, nesting deeper than 64, more than
10,000 keys.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from taskq_core.errors import InvalidJson, TooLarge

__all__ = ["MAX_PAYLOAD", "MAX_RESULT", "check_text", "decode_json", "digest", "encode_json"]

MAX_PAYLOAD = 256 * 1024
MAX_RESULT = 256 * 1024
MAX_DEPTH = 64
MAX_KEYS = 10_000
MAX_DIGITS = 400

_encoder = msgspec.json.Encoder()
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[0-9]{300}|[eE][+]?[0-9]{3}")
# Depth cannot exceed the number of brackets, keys not the number of colons: most texts need no walk.


def encode_json(value: object) -> bytes:
    """Compact JSON of a value that Python code made. Raises InvalidJson when it cannot be kept."""
    try:
        text = _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, UnicodeEncodeError) as error:
        message = f"the value is not JSON: {error}"
        raise InvalidJson(message) from error
    if _check_made(value, 0, [MAX_KEYS]) or _SUSPECT.search(text):
        decode_json(text)
    return text


_PLAIN = frozenset({str, int, bool, type(None)})
_TEXT = {str}


def _check_made(value: object, depth: int, keys_left: list[int]) -> bool:
    """The encoder writes NaN as null: look for what must be refused before it is lost.

    Answers whether the text must be read back, because keys that differ here may be equal there.
    """
    if type(value) is float and not math.isfinite(value):
        message = "NaN and Infinity are not JSON"
        raise InvalidJson(message)
    inner = _inner(value)
    if inner is None:
        return False
    if depth >= MAX_DEPTH:
        message = f"nested deeper than {MAX_DEPTH}"
        raise InvalidJson(message)
    doubtful = False
    if isinstance(value, dict):
        keys_left[0] -= len(value)  # pyright: ignore[reportUnknownArgumentType]
        if keys_left[0] < 0:
            message = f"more than {MAX_KEYS} keys"
            raise InvalidJson(message)
        doubtful = not _TEXT.issuperset(map(type, value))  # pyright: ignore[reportUnknownArgumentType]
    for item in inner:
        if type(item) not in _PLAIN:
            doubtful = _check_made(item, depth + 1, keys_left) or doubtful
    return doubtful


def _inner(value: object) -> Iterable[object] | None:
    """What a value is made of; None for one that has no parts."""
    if isinstance(value, str | int | float | bytes | None):
        return None
    if isinstance(value, dict):
        return cast("dict[object, object]", value).values()
    if isinstance(value, list | tuple | set | frozenset):
        return cast("Iterable[object]", value)
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return None


def decode_json(raw: bytes, limit: int | None = None) -> Any:
    """The value of JSON text from outside. Raises InvalidJson, or TooLarge over `limit` bytes."""
    if limit is not None and len(raw) > limit:
        message = f"{len(raw)} bytes; the limit is {limit}"
        raise TooLarge(message)
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_distinct_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded_int,
        )
    except UnicodeDecodeError as error:
        message = "the text is not UTF-8"
        raise InvalidJson(message) from error
    except RecursionError as error:
        message = f"nested deeper than {MAX_DEPTH}"
        raise InvalidJson(message) from error
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise InvalidJson(message) from error
    _check_read(value, 0, [MAX_KEYS])
    return value


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        message = f"the key {twice[:60]!r} stands twice"
        raise InvalidJson(message)
    return members


def _refuse_constant(word: str) -> Any:
    message = f"{word} is not JSON"
    raise InvalidJson(message)


def _finite(text: str) -> float:
    number = float(text)
    exponent = text.lower().partition("e")[2]
    # Postgres refuses 1e-20000 and 0e99999 alike, though a double holds both
    far = len(exponent) > 4 or abs(int(exponent or 0)) > MAX_DIGITS
    if math.isinf(number) or len(text) > MAX_DIGITS or far:
        message = f"the number {text[:20]}… is out of range"
        raise InvalidJson(message)
    return number


def _bounded_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        message = f"an integer of {len(text)} digits; the limit is {MAX_DIGITS}"
        raise InvalidJson(message)
    return int(text)


def check_text(text: str) -> None:
    """Raises InvalidJson for text that Postgres cannot hold."""
    if "\0" in text:
        message = "the character U+0000 cannot be stored"
        raise InvalidJson(message)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = "a lone surrogate is not text"
        raise InvalidJson(message) from error


def _check_read(value: Any, depth: int, keys_left: list[int]) -> None:
    if isinstance(value, str):
        check_text(value)
        return
    if not isinstance(value, dict | list):
        return
    if depth >= MAX_DEPTH:
        message = f"nested deeper than {MAX_DEPTH}"
        raise InvalidJson(message)
    if isinstance(value, dict):
        keys_left[0] -= len(value)  # pyright: ignore[reportUnknownArgumentType]
        if keys_left[0] < 0:
            message = f"more than {MAX_KEYS} keys"
            raise InvalidJson(message)
        for key in value:  # pyright: ignore[reportUnknownVariableType]
            check_text(key)  # pyright: ignore[reportUnknownArgumentType]
        inner: Any = value.values()  # pyright: ignore[reportUnknownVariableType]
    else:
        inner = value  # pyright: ignore[reportUnknownVariableType]
    for item in inner:
        _check_read(item, depth + 1, keys_left)


def digest(*parts: bytes) -> str:
    """Short digest that tells whether two submissions are the same: 32 hex digits."""
    framed = b"".join([len(part).to_bytes(8) + part for part in parts])
    return hashlib.blake2b(framed, digest_size=16).hexdigest()
