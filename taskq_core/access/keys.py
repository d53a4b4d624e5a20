"""The form of an API key: `tq_<id>_<secret>`, of which only the secret's SHA-256 is ever stored.

The secret has 256 random bits, so that a fast hash is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

import msgspec

from taskq_core.access.scopes import Scope

__all__ = ["ApiKey", "NewKey", "hash_secret", "make_key", "matches", "parse_token"]

_TOKEN = re.compile(r"tq_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it may be shown: without its secret. Times are server milliseconds."""

    id: str
    scopes: frozenset[Scope]
    label: str = ""
    created_at: int = 0
    expires_at: int | None = None


class NewKey(msgspec.Struct, frozen=True):
    """A key at birth: the only moment at which the token is known."""

    key: ApiKey
    token: str
    secret_hash: str

    def __repr__(self) -> str:
        return f"NewKey({self.key!r})"


def make_key(
    scopes: frozenset[Scope], *, label: str = "", now_ms: int = 0, expires_at: int | None = None
) -> NewKey:
    """A fresh key."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = ApiKey(id=key_id, scopes=scopes, label=label, created_at=now_ms, expires_at=expires_at)
    return NewKey(key, f"tq_{key_id}_{secret}", hash_secret(secret))


def parse_token(token: str) -> tuple[str, str] | None:
    """(id, secret) of a token; None when it has not the form of one."""
    found = _TOKEN.fullmatch(token)
    return (found[1], found[2]) if found else None


def hash_secret(secret: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def matches(secret: str, stored_hash: str) -> bool:
    """Whether a secret has this hash, in constant time."""
    return hmac.compare_digest(hash_secret(secret).encode(), stored_hash.encode())
