"""API keys in Redis: create, verify, list, revoke."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

from redis.exceptions import RedisError

from taskq_core.access.keys import ApiKey, NewKey, hash_secret, make_key, matches, parse_token
from taskq_core.access.scopes import Scope
from taskq_core.errors import InvalidOption, NotFound, Unauthenticated, Unavailable

__all__ = ["KeyStore"]

REMEMBERED_S = 5.0  # a revoked key may be accepted this long by a process that has just seen it
_MOST_REMEMBERED = 10_000
_MAX_LABEL = 100
_NO_HASH = hash_secret("")
_REFUSAL = "a valid API key is needed: Authorization: Bearer tq_…"


class KeyStore:
    """The keys of one system."""

    def __init__(self, redis: Any, prefix: str) -> None:
        """`redis`: a `redis.asyncio` client; `prefix`: of the keys' names, from `broker.keys`."""
        self._redis = redis
        self._prefix = prefix
        self._index = prefix + "index"  # no id: those are hex digits
        self._seen: dict[str, tuple[float, ApiKey]] = {}  # token's hash -> until, key

    async def create(
        self,
        scopes: frozenset[Scope],
        *,
        label: str = "",
        now_ms: int = 0,
        expires_at: int | None = None,
    ) -> NewKey:
        """Make and store a key; its token is not kept anywhere. Raises InvalidOption, Unavailable."""
        if len(label) > _MAX_LABEL or not label.isprintable():
            raise InvalidOption(f"a label has at most {_MAX_LABEL} printable characters")
        new = make_key(scopes, label=label, now_ms=now_ms, expires_at=expires_at)
        await self._write(new)
        return new

    async def adopt(
        self, token: str, scopes: frozenset[Scope], *, label: str = "", now_ms: int = 0
    ) -> ApiKey:
        """Store a key whose token exists already (the data folder's), if it is not there yet."""
        parts = parse_token(token)
        if parts is None:
            raise InvalidOption("the token has not the form tq_<id>_<secret>")
        key = ApiKey(id=parts[0], scopes=scopes, label=label, created_at=now_ms)
        await self._write(NewKey(key, token, hash_secret(parts[1])))
        return key

    async def verify(self, token: str, now_ms: int) -> ApiKey:
        """The key of a token. Raises Unauthenticated, the same for every reason, or Unavailable."""
        mark = hash_secret(token)
        seen = self._seen.get(mark)
        if seen is not None and seen[0] > time.monotonic():
            return _unexpired(seen[1], now_ms)
        parts = parse_token(token)
        key_id, secret = parts or ("0" * 12, "")
        fields = await self._read(key_id)
        if not matches(secret, fields.get("hash", _NO_HASH)) or parts is None or not fields:
            raise Unauthenticated(_REFUSAL)
        key = _unexpired(_key(key_id, fields), now_ms)
        if len(self._seen) >= _MOST_REMEMBERED:
            self._seen.clear()
        self._seen[mark] = (time.monotonic() + REMEMBERED_S, key)
        return key

    async def list(self) -> list[ApiKey]:
        """Every key, oldest first."""
        try:
            ids = sorted(member.decode() for member in await self._redis.smembers(self._index))
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis: {error}") from error
        keys = [_key(key_id, fields) for key_id in ids if (fields := await self._read(key_id))]
        return sorted(keys, key=lambda key: (key.created_at, key.id))

    async def revoke(self, key_id: str) -> None:
        """Delete a key. Raises NotFound, Unavailable."""
        self._seen.clear()
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.delete(self._prefix + key_id)
                pipe.srem(self._index, key_id)
                deleted, known = await pipe.execute()
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis: {error}") from error
        if not deleted and not known:
            raise NotFound(f"there is no key {key_id[:40]!r}")

    async def _write(self, new: NewKey) -> None:
        key = new.key
        fields = {
            "hash": new.secret_hash,
            "scopes": " ".join(sorted(key.scopes)),
            "label": key.label,
            "created_at": key.created_at,
        }
        if key.expires_at is not None:
            fields["expires_at"] = key.expires_at
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(self._prefix + key.id, mapping=fields)
                pipe.sadd(self._index, key.id)
                await pipe.execute()
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis: {error}") from error

    async def _read(self, key_id: str) -> Mapping[str, str]:
        try:
            found = cast(dict[bytes, bytes], await self._redis.hgetall(self._prefix + key_id))
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis: {error}") from error
        return {field.decode(): value.decode() for field, value in found.items()}


def _key(key_id: str, fields: Mapping[str, str]) -> ApiKey:
    """Scopes of a later release that this one does not know are left out: they grant nothing here."""
    known = {scope.value for scope in Scope}
    expires = fields.get("expires_at")
    return ApiKey(
        id=key_id,
        scopes=frozenset(Scope(name) for name in fields.get("scopes", "").split() if name in known),
        label=fields.get("label", ""),
        created_at=int(fields.get("created_at") or 0),
        expires_at=int(expires) if expires else None,
    )


def _unexpired(key: ApiKey, now_ms: int) -> ApiKey:
    if key.expires_at is not None and now_ms >= key.expires_at:
        raise Unauthenticated(_REFUSAL)
    return key
