"""Redis as one file: the server's own snapshot, taken as a replica takes it.

It is of one moment, needs no file access to the server, and works over any address.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

from redis import connection as redis_connection

from taskq_core.errors import ConfigError, Unavailable

__all__ = ["fetch_snapshot"]

_SILENCE_S = 120.0  # the server sends newlines while it prepares the snapshot
_PIECE = 1 << 20
_MARK = 40  # bytes that end a snapshot of unknown length


def fetch_snapshot(url: str, target: Path) -> None:
    """Write the server's snapshot (RDB) into a file.

    Raises ConfigError when this user may not take one, Unavailable when the server is away.
    """
    try:
        with _connected(url) as connection, connection.makefile("rb") as answers, target.open("wb") as out:
            connection.sendall(b"*1\r\n$4\r\nSYNC\r\n")
            _copy(answers, _length(answers), out)
    except OSError as error:
        raise Unavailable(f"Redis broke off its snapshot: {error}; try again") from error


def _length(answers: Any) -> bytes:
    """The announcement of what follows: a number of bytes, or a mark at its end."""
    while True:
        line: bytes = answers.readline()
        if not line:
            raise Unavailable("Redis broke off its snapshot; try again")
        if line.startswith(b"-"):
            raise ConfigError(f"Redis gives this user no snapshot ({line[1:].decode().strip()}); allow SYNC")
        if line.startswith(b"$"):
            return line[1:].strip()


def _copy(answers: Any, length: bytes, out: Any) -> None:
    if length.startswith(b"EOF:"):
        _copy_to_mark(answers, length[4:][:_MARK], out)
        return
    left = int(length)
    while left:
        piece: bytes = answers.read(min(left, _PIECE))
        if not piece:
            raise Unavailable("Redis broke off its snapshot; try again")
        out.write(piece)
        left -= len(piece)


def _copy_to_mark(answers: Any, mark: bytes, out: Any) -> None:
    held = b""
    while not held.endswith(mark):
        piece: bytes = answers.read1(_PIECE)
        if not piece:
            raise Unavailable("Redis broke off its snapshot; try again")
        held += piece
        out.write(held[:-_MARK])
        held = held[-_MARK:]


@contextlib.contextmanager
def _connected(url: str) -> Generator[socket.socket]:
    """A connection, authenticated; speaks the protocol by hand, for a snapshot is no usual answer."""
    place: dict[str, Any] = cast(Any, redis_connection).parse_url(url)  # untyped there
    with _open(url, place) as connection:
        connection.settimeout(_SILENCE_S)
        if place.get("password"):
            words = ["AUTH", *filter(None, [place.get("username")]), place["password"]]
            connection.sendall(_command(words))
            answer = connection.recv(_PIECE)
            if not answer.startswith(b"+OK"):
                raise ConfigError("Redis refused the credentials in TASKQ_REDIS_URL")
        yield connection


def _open(url: str, place: dict[str, Any]) -> socket.socket:
    if "path" in place:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(place["path"])
        return connection
    host, port = place.get("host", "localhost"), int(place.get("port", 6379))
    connection = socket.create_connection((host, port), timeout=10)
    if url.startswith("rediss:"):
        context = ssl.create_default_context(cafile=place.get("ssl_ca_certs"))
        return context.wrap_socket(connection, server_hostname=host)
    return connection


def _command(words: list[str]) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
