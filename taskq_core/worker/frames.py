"""Messages between a runner and its isolated processes: length-prefixed MessagePack over a socket pair."""

from __future__ import annotations

import asyncio
import socket

import msgspec

__all__ = ["Answer", "Job", "Report", "read_frame", "recv_frame", "send_frame"]

_LENGTH = 4


class Job(msgspec.Struct, frozen=True, tag="job"):
    """What an isolated process is to do."""

    name: str
    payload: bytes
    task_id: str
    attempt: int
    epoch: int
    metadata: str


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Progress on the way."""

    fraction: float
    message: str


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """How it ended; `op` as the broker's Op."""

    op: str
    body: str
    cpu_ms: float = -1.0
    peak_rss: int = -1
    outcome: str = "failed"


_encode = msgspec.msgpack.Encoder().encode
_jobs = msgspec.msgpack.Decoder(Job)
_answers = msgspec.msgpack.Decoder(Report | Answer)


def _pack(message: Job | Report | Answer) -> bytes:
    body = _encode(message)
    return len(body).to_bytes(_LENGTH) + body


async def read_frame(reader: asyncio.StreamReader) -> Report | Answer:
    """The next message of the child. Raises IncompleteReadError at its end."""
    size = int.from_bytes(await reader.readexactly(_LENGTH))
    return _answers.decode(await reader.readexactly(size))


def write_job(writer: asyncio.StreamWriter, job: Job) -> None:
    """Hand a job to the child."""
    writer.write(_pack(job))


def send_frame(sock: socket.socket, message: Report | Answer) -> None:
    """The child's side: send, blocking."""
    sock.sendall(_pack(message))


def recv_frame(sock: socket.socket) -> Job | None:
    """The child's side: the next job, or None when the runner is gone."""
    head = _recv(sock, _LENGTH)
    if head is None:
        return None
    body = _recv(sock, int.from_bytes(head))
    return None if body is None else _jobs.decode(body)


def _recv(sock: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)
