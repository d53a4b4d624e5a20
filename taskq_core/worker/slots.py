"""The slot table: what a runner does now, in memory that it shares with its supervisor.

A slot is written before user code starts and cleared when its settle is acknowledged. The supervisor
reads it without asking: it renews these leases, watches these deadlines, and knows from it what a dead
runner was doing. One writer per field, so that there is no lock.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["ENDED", "FREE", "RUNNING", "Slot", "SlotTable"]

FREE, RUNNING, ENDED = 0, 1, 2
KINDS = ("async", "thread", "isolated")

_NUMBER = struct.Struct("<Q")
_RENEWED_AT, _LAG_AT = 0, 8  # two numbers in the head
_HEAD_SIZE = 64
# state, kind, stream, -, queue, epoch, isolated pid, entry, task id, started, soft limit, hard limit
_SLOT = struct.Struct("<BBBxHxxII40s36sxxxxQQQ")
_SIZE = 128
_PID_AT = 12
_BODY = struct.Struct("<BBxHxxII40s36sxxxxQQQ")


class Slot(msgspec.Struct, frozen=True):
    """One slot as its supervisor sees it. Times are monotonic ns; 0: no limit."""

    index: int
    state: int
    kind: str
    queue: int
    stream: int
    epoch: int
    pid: int
    entry: str
    task_id: str
    started: int
    soft: int
    hard: int


class SlotTable:
    """A fixed number of slots in a memory-mapped file without a name."""

    def __init__(self, fd: int, size: int, memory: mmap.mmap) -> None:
        self.fd = fd
        self.size = size
        self._memory = memory
        self._free = list(range(size - 1, -1, -1))

    @classmethod
    def create(cls, size: int) -> SlotTable:
        """A new table; the file lives as long as someone holds its descriptor."""
        fd, path = tempfile.mkstemp(prefix="taskq-slots-")
        Path(path).unlink()
        os.ftruncate(fd, _HEAD_SIZE + size * _SIZE)
        return cls(fd, size, mmap.mmap(fd, 0))

    @classmethod
    def attach(cls, fd: int) -> SlotTable:
        """The table behind an inherited descriptor."""
        memory = mmap.mmap(fd, 0)
        return cls(fd, (len(memory) - _HEAD_SIZE) // _SIZE, memory)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self.fd)

    # --- the runner's side

    def occupy(
        self, place: tuple[int, int, int], epoch: int, entry: str, task_id: str, times: tuple[int, int, int]
    ) -> int:
        """Write a slot and answer its number. Raises IndexError when all are taken.

        `place` is kind, queue and stream by index; `times` start, soft and hard limit.
        """
        index = self._free.pop()
        at = _HEAD_SIZE + index * _SIZE
        _BODY.pack_into(
            self._memory,
            at + 1,
            place[0],
            place[2],
            place[1],
            epoch,
            0,
            entry.encode(),
            task_id.encode(),
            *times,
        )
        self._memory[at] = RUNNING
        return index

    def set_pid(self, index: int, pid: int) -> None:
        """Say which isolated process runs it."""
        struct.pack_into("<I", self._memory, _HEAD_SIZE + index * _SIZE + _PID_AT, pid)

    def mark_ended(self, index: int) -> None:
        """User code is done; the settle is not acknowledged yet."""
        self._memory[_HEAD_SIZE + index * _SIZE] = ENDED

    def clear(self, index: int) -> None:
        """The settle is acknowledged."""
        self._memory[_HEAD_SIZE + index * _SIZE] = FREE
        self._free.append(index)

    def set_lag(self, lag: int) -> None:
        """How late the event loop was at its last tick (ns)."""
        _NUMBER.pack_into(self._memory, _LAG_AT, lag)

    # --- the supervisor's side

    def set_renewed(self, now: int) -> None:
        """Note when the leases were last renewed (monotonic ns)."""
        if not self._memory.closed:
            _NUMBER.pack_into(self._memory, _RENEWED_AT, now)

    @property
    def renewed_at(self) -> int:
        """When the leases were last renewed (monotonic ns); 0: never."""
        return int(_NUMBER.unpack_from(self._memory, _RENEWED_AT)[0])

    @property
    def lag(self) -> int:
        """How late the event loop was at its last tick (ns)."""
        return 0 if self._memory.closed else int(_NUMBER.unpack_from(self._memory, _LAG_AT)[0])

    def taken(self) -> Iterator[Slot]:
        """Every slot that is not free."""
        memory = self._memory
        if memory.closed:  # its runner ended while the reader waited for Redis
            return
        for index in range(self.size):
            at = _HEAD_SIZE + index * _SIZE
            if memory[at] != FREE:
                yield self._read(index, at)

    def _read(self, index: int, at: int) -> Slot:
        fields: tuple[Any, ...] = _SLOT.unpack_from(self._memory, at)
        state, kind, stream, queue, epoch, pid, entry, task_id, started, soft, hard = fields
        return Slot(
            index,
            state,
            KINDS[int(kind)],
            queue,
            stream,
            epoch,
            pid,
            entry.rstrip(b"\0").decode(),
            task_id.decode(),
            started,
            soft,
            hard,
        )
