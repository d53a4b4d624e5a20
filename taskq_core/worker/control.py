"""The line between a supervisor and a runner: JSON lines over a socket pair, both ways.

To the runner: ``drain``, ``cancel`` (ids), ``lost`` (ids), ``poke``. To the supervisor: ``ready`` (what it
serves), ``failed`` (why it could not start).
"""

from __future__ import annotations

import asyncio
import socket

import msgspec

__all__ = ["Line", "Message", "Ready"]

MAX_LINE = 8 << 20


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line."""

    op: str
    ids: list[str] = []
    why: str = ""
    body: str = ""  # of ready: a Ready, raw JSON
    grace_s: float = 0.0


class Ready(msgspec.Struct, frozen=True):
    """What a runner serves."""

    queues: list[str]
    names: list[str]  # of its tasks
    files: dict[str, int]  # with --reload: source files to watch, and their times (ns) when they were read


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


class Line:
    """One end of the line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, sock: socket.socket) -> Line:
        """Take over a connected socket."""
        return cls(*await asyncio.open_connection(sock=sock, limit=MAX_LINE))

    def send(self, message: Message) -> None:
        """Send; a line whose other end is gone swallows it."""
        if not self._writer.is_closing():
            self._writer.write(_encode(message) + b"\n")

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return _decode(line) if line else None

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
