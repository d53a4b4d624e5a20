"""Carries a shard's events into the history: read, commit, forget, acknowledge, trim.

An event is acknowledged after the COMMIT that holds it, never before; what was committed and not yet
acknowledged comes again and changes nothing. Ended tasks are forgotten before the acknowledgement, so that a
crash in between forgets them again rather than never. Any trouble with either side ends the session; the next
begins with what was delivered and not acknowledged. While Postgres is away, events wait in the source.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from datetime import date

import msgspec
import psycopg

from taskq_core.audit.batch import Batch, Broken, Placed, pack_one, unpack
from taskq_core.audit.partitions import make_partitions
from taskq_core.audit.session import connect, lock_shard, wait_for_shard
from taskq_core.audit.source import Entry, EventSource
from taskq_core.audit.store import Connection, Mark, Rejected, Store
from taskq_core.audit.wire import day_of
from taskq_core.clock import monotonic_ns
from taskq_core.errors import TaskqError
from taskq_core.model.lifecycle import ENDED

__all__ = ["Relay", "RelayStats"]

log = logging.getLogger("taskq.relay")

BATCH_BYTES = 8 << 20
IDLE_S = 1.0  # longest wait for a first event
SMALL_BATCH = 500  # events; after fewer the relay rests, so that a trickle does not cost a COMMIT each
REST_S = 0.05
MEASURE_S = 1.0
TRIM_S = 1.0
PARTITIONS_S = 3600.0
STRAYS_S = 5.0  # an idle relay looks for entries whose delivery it never saw
COMMIT_DEADLINE_S = 90.0  # for a server that neither answers nor times out
STOP_S = 0.6  # what a running COMMIT is given when the relay is told to stop
BACKOFF_S = (0.1, 5.0)

_ENDED = frozenset(str(state) for state in ENDED)  # kinds and states of an end share their names


class RelayStats(msgspec.Struct):
    """What a relay says of itself."""

    state: str = "starting"  # starting, standby, running, waiting (for a server), stopped
    backlog: int = 0  # events in the source that are not committed
    lag_s: float = 0.0  # age of the oldest event that is not committed
    committed: int = 0  # new events since the start
    replayed: int = 0  # events that came again
    quarantined: int = 0
    differing: int = 0  # events that came again with another content: an alarm
    batches: int = 0
    moved: int = 0  # rows that had no partition
    trouble: str = ""  # the last error while waiting


class Relay:
    """One shard's relay. Only one of several for the same shard works; the others stand by."""

    def __init__(self, source: EventSource, database_url: str) -> None:
        self.stats = RelayStats()
        self._source = source
        self._database_url = database_url
        self._committed: Mark | None = None
        self._due: dict[str, int] = {}  # periodic duty -> monotonic ns of its next turn

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; returns within about a second after it."""
        working = asyncio.create_task(self._work(stop))
        helpers = {asyncio.create_task(stop.wait()), asyncio.create_task(self._keep_measuring())}
        try:
            await asyncio.wait({working, *helpers}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({working}, timeout=STOP_S)
        finally:
            for helper in helpers:
                helper.cancel()
            await _end(working)
            self.stats.state = "stopped"
        if working.done() and not working.cancelled():
            working.result()

    async def _work(self, stop: asyncio.Event) -> None:
        pause, longest = BACKOFF_S
        while not stop.is_set():
            batches = self.stats.batches
            try:
                async with connect(self._database_url) as connection:
                    await self._serve(connection, stop)
                return
            except (psycopg.Error, TaskqError, OSError, TimeoutError) as error:
                if self.stats.batches > batches:
                    pause = BACKOFF_S[0]
                self._tell_trouble(error)
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, longest)

    def _tell_trouble(self, error: Exception) -> None:
        lines = str(error).strip().splitlines()
        trouble = f"{type(error).__name__}: {lines[0] if lines else ''}"
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            trouble = "the database is not set up; run `taskq migrate`"
        level = logging.DEBUG if trouble == self.stats.trouble else logging.WARNING
        log.log(level, "the relay of shard %s waits: %s", self._source.shard, trouble)
        self.stats.state, self.stats.trouble = "waiting", trouble

    async def _serve(self, connection: Connection, stop: asyncio.Event) -> None:
        shard = self._source.shard
        if not await lock_shard(connection, shard):
            log.info("another relay serves shard %s; this one stands by", shard)
            self.stats.state, self.stats.trouble = "standby", ""
            await wait_for_shard(connection, shard)
        store = Store(connection, shard)
        await store.prepare()
        self._due.clear()
        incarnation = await self._align(store)
        log.info("the relay of shard %s runs, incarnation %s", shard, incarnation)
        await self._duties(connection)
        await self._drain_pending(store, incarnation)
        self._is_due("strays", STRAYS_S)
        self.stats.state, self.stats.trouble = "running", ""
        while not stop.is_set():
            entries = await self._source.fresh(IDLE_S, BATCH_BYTES)
            count = await self._carry(store, incarnation, entries)
            await self._duties(connection)
            if not entries and self._is_due("strays", STRAYS_S):
                await self._drain_pending(store, incarnation)
            if 0 < count < SMALL_BATCH:
                await asyncio.sleep(REST_S)

    async def _align(self, store: Store) -> int:
        """The incarnation to write under. It rises when the source has lost what the history holds."""
        incarnation = await self._source.incarnation()
        self._committed = position = await store.position()
        if position is None:
            return incarnation
        if incarnation < position.incarnation or (
            incarnation == position.incarnation and await self._has_lost(position)
        ):
            log.warning("shard %s begins anew: its stream lacks what is committed", self._source.shard)
            incarnation = position.incarnation + 1
            await self._source.raise_incarnation(incarnation)
        return incarnation

    async def _has_lost(self, position: Mark) -> bool:
        """Whether the stream is an older one than the history knows, even if it has grown since."""
        place = (position.ms, position.seq)
        newest, _ = await self._source.head()
        return await self._source.end() < place or newest < position.n or await self._source.lacks(place)

    async def _drain_pending(self, store: Store, incarnation: int) -> None:
        after = (0, 0)
        while entries := await self._source.pending(after, BATCH_BYTES):
            await self._carry(store, incarnation, entries)
            after = entries[-1][0], entries[-1][1]

    async def _carry(self, store: Store, incarnation: int, entries: Sequence[Entry]) -> int:
        """Everything that happens to one read. Answers how many events it held."""
        if not entries:
            return 0
        batch = unpack(entries, incarnation)
        kept = await self._commit(store, batch, incarnation)
        ended = [(p.event.task_id, p.at) for p in kept if p.event.kind in _ENDED]
        if ended:
            await self._source.forget(ended)
        await self._source.ack(batch.ids)
        self.stats.batches += 1
        return len(batch.events)

    async def _commit(self, store: Store, batch: Batch, incarnation: int) -> list[Placed]:
        """Answers the events that are in the history now."""
        upto = self._mark(batch, incarnation)
        bad: list[tuple[Placed, str]] = []
        if batch.events or not batch.broken:
            await self._commit_part(store, batch.events, upto, bad)
        broken = batch.broken + [Broken(p.place, p.n, pack_one(p), why) for p, why in bad]
        if broken:
            await store.quarantine(broken, upto)
            self.stats.quarantined += len(broken)
            for one in broken[:10]:
                log.error("event %s is in quarantine: %s", "-".join(map(str, one.place)), one.reason)
        self._committed = upto
        guilty = {placed.place for placed, _ in bad}
        return [placed for placed in batch.events if placed.place not in guilty] if bad else batch.events

    def _mark(self, batch: Batch, incarnation: int) -> Mark:
        ms, seq = max(batch.ids)
        before = self._committed
        if batch.events:
            newest = max(batch.events, key=_order)
            n, at = newest.n, newest.at
        else:
            n, at = (before.n, before.at) if before and before.incarnation == incarnation else (0, ms)
        return Mark(incarnation, ms, seq, n, at)

    async def _commit_part(
        self, store: Store, events: Sequence[Placed], upto: Mark, bad: list[tuple[Placed, str]]
    ) -> None:
        """Commit; where an event is refused, halve until it stands alone."""
        try:
            async with asyncio.timeout(COMMIT_DEADLINE_S):
                done = await store.commit(events, upto)
        except Rejected as error:
            if len(events) == 1:
                bad.append((events[0], str(error)))
                return
            half = len(events) // 2
            middle = events[half - 1]
            part = Mark(middle.place[0], middle.place[1], middle.place[2], middle.n, middle.at)
            await self._commit_part(store, events[:half], part, bad)
            await self._commit_part(store, events[half:], upto, bad)
            return
        self.stats.committed += done.events
        self.stats.replayed += done.replayed
        self.stats.differing += done.differing

    # -- periodic duties --------------------------------------------------------------------------------

    def _is_due(self, duty: str, every_s: float) -> bool:
        now = monotonic_ns()
        if now < self._due.get(duty, 0):
            return False
        self._due[duty] = now + int(every_s * 1e9)
        return True

    async def _duties(self, connection: Connection) -> None:
        if self._is_due("partitions", PARTITIONS_S):
            _, now_ms = await self._source.head()
            await self._make_partitions(connection, day_of(now_ms))
        if self._is_due("trim", TRIM_S):
            await self._source.trim()

    async def _make_partitions(self, connection: Connection, today: date) -> None:
        try:
            made = await make_partitions(connection, today)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.InsufficientPrivilege) as error:
            log.warning("no partitions were made, DEFAULT takes the rows meanwhile: %s", error)
            self._due["partitions"] = monotonic_ns() + 60_000_000_000
            return
        self.stats.moved += sum(one.moved for one in made)

    async def _keep_measuring(self) -> None:
        """Beside the work: the backlog grows while Postgres is away, slow or frozen."""
        while True:
            try:
                await self._measure()
            except (TaskqError, OSError) as error:
                log.debug("the backlog is unknown: %s", error)
            await asyncio.sleep(MEASURE_S)

    async def _measure(self) -> None:
        if self.stats.state == "standby":
            self.stats.backlog, self.stats.lag_s = 0, 0.0  # the other one knows
            return
        n, now_ms = await self._source.head()
        committed = self._committed
        self.stats.backlog = max(0, n - (committed.n if committed else 0))
        oldest = None
        if self.stats.backlog:
            after = (committed.ms, committed.seq) if committed else (0, 0)
            oldest = await self._source.next_ms(after)
        self.stats.lag_s = 0.0 if oldest is None else max(0.0, (now_ms - oldest) / 1000.0)


def _order(placed: Placed) -> int:
    return placed.order


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task; more than once, as the driver's clean-up may itself wait for a frozen server."""
    for _ in range(3):
        task.cancel()
        await asyncio.wait({task}, timeout=0.2)
        if task.done():
            return
