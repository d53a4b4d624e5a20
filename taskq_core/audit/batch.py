"""Stream entries, unpacked into events that know their place."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from taskq_core.audit.source import Entry
from taskq_core.model.event import WIRE_VERSION, Event, EventBatch, decode_batch

__all__ = ["Batch", "Broken", "Placed", "pack_one", "unpack"]

# An order over all events of a shard: an incarnation's events are numbered without a hole.
INCARNATION_SHIFT = 48


class Placed(msgspec.Struct, frozen=True, gc=False):
    """An event, where it stood, and who called."""

    place: tuple[int, int, int, int]  # incarnation, ms, seq, index in the entry
    order: int  # incarnation << 48 | n
    n: int
    at: int  # server milliseconds
    worker: str
    digest: int  # of the entry
    event: Event


class Broken(msgspec.Struct, frozen=True, gc=False):
    """What cannot be kept as an event. `idx` is −1 for a whole entry."""

    place: tuple[int, int, int, int]
    n: int | None
    raw: bytes
    reason: str


class Batch(msgspec.Struct, frozen=True):
    """What one read gave."""

    events: list[Placed]
    broken: list[Broken]
    ids: list[tuple[int, int]]  # of the entries


def unpack(entries: Iterable[Entry], incarnation: int) -> Batch:
    """Never raises: what no function of ours wrote is `broken`."""
    batch = Batch([], [], [])
    for ms, seq, packed in entries:
        batch.ids.append((ms, seq))
        place = (incarnation, ms, seq, -1)
        if packed is None:
            batch.broken.append(Broken(place, None, b"", "the entry was deleted before it was read"))
            continue
        try:
            said = decode_batch(packed)
        except (msgspec.DecodeError, RecursionError) as error:
            batch.broken.append(Broken(place, None, packed, f"not an event batch: {error}"))
            continue
        if said.version != WIRE_VERSION:
            batch.broken.append(Broken(place, said.n, packed, f"unknown version {said.version}"))
            continue
        batch.events.extend(_placed(said, packed, place))
    return batch


def _placed(said: EventBatch, packed: bytes, place: tuple[int, int, int, int]) -> Iterable[Placed]:
    incarnation, ms, seq, _ = place
    digest = int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), signed=True)
    base = incarnation << INCARNATION_SHIFT
    first, at, worker = said.n, said.at, said.worker
    return [
        Placed((incarnation, ms, seq, idx), base | (first + idx), first + idx, at, worker, digest, event)
        for idx, event in enumerate(said.events)
    ]


_pack = msgspec.msgpack.Encoder()


def pack_one(placed: Placed) -> bytes:
    """The event alone, in the form in which it came: for the quarantine."""
    return _pack.encode(EventBatch(WIRE_VERSION, placed.n, placed.at, placed.worker, [placed.event]))


def last_of(ids: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The newest entry's id."""
    return max(ids)
