"""Who asks: the key of a Bearer token.

`KeyStore` remembers a key for seconds. When Redis is away, a key that was good within the last minute stays
good, so that operators can still read what the history knows; a revoked one is refused after a minute at
the latest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from taskq_core.access.keys import ApiKey
from taskq_core.access.scopes import Scope
from taskq_core.access.store import KeyStore
from taskq_core.clock import monotonic_ns
from taskq_core.errors import Unauthenticated, Unavailable

__all__ = ["Auth", "bearer_token"]

KEPT_NS = 60_000_000_000
ANSWER_S = 0.7
REST_NS = 1_000_000_000  # after a question without an answer, the next are not asked
_MOST_KEPT = 10_000
_ANYONE = ApiKey(id="local", scopes=frozenset({Scope.ADMIN}), label="--no-auth")
_PREFIX = "bearer "


def bearer_token(header: str | None) -> str:
    """The token of an Authorization header; empty when there is none of this kind."""
    if header is None or header[: len(_PREFIX)].lower() != _PREFIX:
        return ""
    return header[len(_PREFIX) :].strip()


class Auth:
    """Checks the tokens of one process."""

    def __init__(self, store: KeyStore, now_ms: Callable[[], int], *, required: bool = True) -> None:
        """`required` false: everyone on this machine is an administrator."""
        self._store = store
        self._now_ms = now_ms
        self._required = required
        self._good: dict[bytes, tuple[int, ApiKey]] = {}
        self._silent_until = 0

    @property
    def required(self) -> bool:
        """Whether keys are asked for at all."""
        return self._required

    async def check(self, token: str) -> ApiKey:
        """The key. Raises Unauthenticated, the same for every reason, or Unavailable."""
        if not self._required:
            return _ANYONE
        mark = hashlib.sha256(token.encode(errors="replace")).digest()
        if monotonic_ns() < self._silent_until:
            return self._remembered(mark)
        try:
            async with asyncio.timeout(ANSWER_S):
                key = await self._store.verify(token, self._now_ms())
        except (Unavailable, TimeoutError):
            self._silent_until = monotonic_ns() + REST_NS
            return self._remembered(mark)
        except Unauthenticated:
            _ = self._good.pop(mark, None)
            raise
        if len(self._good) >= _MOST_KEPT:
            self._good.clear()
        self._good[mark] = (monotonic_ns(), key)
        return key

    def _remembered(self, mark: bytes) -> ApiKey:
        seen, key = self._good.get(mark, (0, _ANYONE))
        if not seen or monotonic_ns() - seen > KEPT_NS:
            raise Unavailable("keys cannot be checked now: Redis does not answer; try again")
        if key.expires_at is not None and self._now_ms() >= key.expires_at:
            raise Unauthenticated
        return key
