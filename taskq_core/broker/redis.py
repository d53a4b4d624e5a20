"""Connections to Redis or Valkey, and what is asked of a server before it is used.

The library's own retry is off everywhere: it repeats a command blindly, which is safe only for calls
that are written to be repeated. `Broker` repeats those itself.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry as LibraryRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from taskq_core.errors import ConfigError, Unavailable

__all__ = ["CONNECTION_ERRORS", "RETRYABLE_WORDS", "check_server", "is_retryable", "make_redis"]

CONNECTION_ERRORS = (RedisConnectionError, RedisTimeoutError, OSError)
# The library makes classes of some error words, and takes the word off the message.
PASSING_ERRORS = (BusyLoadingError, ReadOnlyError, ClusterDownError, TryAgainError)
MINIMUM = (7, 0)
# First words of error replies that pass by themselves.
RETRYABLE_WORDS = (
    "LOADING",
    "BUSY",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MISCONF",
    "NOREPLICAS",
)


def make_redis(url: str, *, timeout: float | None = 10.0, single: bool = False, name: str = "") -> Any:
    """A client of this URL, not connected yet. `timeout` is the deadline of one answer, in seconds."""
    if url.startswith(("redis+cluster://", "redis+sentinel://")):
        message = "TASKQ_REDIS_URL: cluster and sentinel are not supported yet; name one server"
        raise ConfigError(message)
    try:
        return aioredis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]  # its keywords are untyped
            url,
            socket_timeout=timeout,
            socket_connect_timeout=5.0,
            retry=LibraryRetry(NoBackoff(), 0),
            retry_on_error=[],
            single_connection_client=single,
            health_check_interval=0,
            client_name=name.replace(" ", "-") or None,
            decode_responses=False,
            protocol=2,
        )
    except ValueError as error:
        message = f"TASKQ_REDIS_URL: {error}"
        raise ConfigError(message) from error


def is_retryable(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    if isinstance(error, AuthenticationError):
        return False
    if isinstance(error, (*CONNECTION_ERRORS, *PASSING_ERRORS)):
        return True
    return isinstance(error, RedisError) and str(error).startswith(RETRYABLE_WORDS)


def _version(info: dict[str, Any]) -> tuple[int, int]:
    major, minor, *_ = str(info.get("redis_version", "0.0")).split(".")
    return int(major), int(minor)


async def check_server(client: Any, *, allow_eviction: bool = False) -> None:
    """Raises ConfigError for a server that is too old or would drop tasks when it is full."""
    try:
        info = await client.info()
    except AuthenticationError as error:
        message = f"Redis refused the credentials in TASKQ_REDIS_URL: {error}"
        raise ConfigError(message) from error
    except CONNECTION_ERRORS as error:
        message = f"Redis does not answer: {error}"
        raise Unavailable(message) from error
    if _version(info) < MINIMUM:
        message = f"Redis {info.get('redis_version')} is too old: use Redis 7.0 or Valkey 7.2, or newer"
        raise ConfigError(message)
    policy = info.get("maxmemory_policy")
    if policy not in {None, "noeviction"} and not allow_eviction:
        message = (
            f"Redis would drop tasks when it is full (maxmemory-policy {policy}): "
            "run CONFIG SET maxmemory-policy noeviction"
        )
        raise ConfigError(message)


def is_missing_function(error: BaseException) -> bool:
    """Whether the reply says that the library is not loaded."""
    return isinstance(error, ResponseError) and "Function not found" in str(error)
