"""Secrets are taken out of what the history shows: by the name of a key, and out of URLs.

The accepted bytes (`payloads.raw`) stay as they are; only owner and rebuild may read them.
"""

from __future__ import annotations

import re
from typing import cast

import msgspec

__all__ = ["REDACTED", "redact_json", "redact_text"]

REDACTED = "[redacted]"

_SECRET_ENDINGS = (
    "password", "passwd", "passphrase", "secret", "token", "authorization", "apikey", "credential",
    "credentials", "privatekey",
)  # fmt: skip
# Cheap signs that a text may hold one. `\u00` may spell a letter of a key.
_SIGNS = ("passw", "passphrase", "secret", "token", "authorization", "api", "credential", "private", "\\u00")
_NOT_LETTERS = re.compile(r"[^a-z0-9]+")
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:\\?/\\?/)[^\s/\"'@<>]*@")


def redact_text(text: str) -> str:
    """Plain text without the user and password of URLs."""
    return _USERINFO.sub(rf"\1{REDACTED}@", text) if "@" in text else text


def redact_json(text: str) -> str:
    """JSON text with secrets replaced; the text itself where there are none, or where it is no JSON."""
    if "@" in text and _USERINFO.search(text):
        return _walked(text)
    lower = text.lower()
    for sign in _SIGNS:
        if sign in lower:
            return _walked(text)
    return text


def _walked(text: str) -> str:
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return msgspec.json.encode(_clean(value)).decode()


def _clean(value: object) -> object:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, list):
        return [_clean(item) for item in cast(list[object], value)]
    if isinstance(value, dict):
        members = cast(dict[str, object], value)
        return {
            key: REDACTED if inner is not None and _is_secret(key) else _clean(inner)
            for key, inner in members.items()
        }
    return value


def _is_secret(key: str) -> bool:
    return _NOT_LETTERS.sub("", key.lower()).endswith(_SECRET_ENDINGS)
