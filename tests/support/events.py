"""Events of tasks that never ran: as the functions would write them, legal by the lifecycle table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from taskq_core.audit.batch import Batch, Placed, unpack
from taskq_core.audit.source import Entry
from taskq_core.model.event import Detail, Event, EventBatch
from taskq_core.model.ids import new_id
from taskq_core.model.lifecycle import MOVES, Kind, State, fold
from taskq_core.model.task import Options, pack_options

START_MS = 1_790_000_000_000
PAYLOAD = '{"source": "cat.jpg", "exact": 1e5, "b": 1, "a": 2}'
OPTIONS = pack_options(Options(max_attempts=3))

_encode = msgspec.msgpack.Encoder().encode


def entry(ms: int, seq: int, n: int, events: Sequence[Event], worker: str = "w1") -> Entry:
    """A stream entry of one call."""
    return ms, seq, _encode(EventBatch(1, n, ms, worker, list(events)))


def submitted(
    task_id: str, *, payload: str = PAYLOAD, due_ms: int | None = None, queue: str = "images"
) -> Event:
    """The first event of a task."""
    detail = Detail(
        name="image.resize",
        queue=queue,
        priority="normal",
        payload=payload,
        options=OPTIONS,
        metadata='{"user": 42}',
        digest="d1",
        due_ms=due_ms,
        unique_key="u",
        trace="00-ab-cd-01",
        actor="key:1",
    )
    return Event(Kind.SUBMITTED, task_id, 0, 0, detail)


def one_life(task_id: str, ms: int, n: int, *, result: str = '{"ok": true}') -> list[Entry]:
    """Submitted, started, succeeded: three calls, a millisecond apart."""
    start = Detail(name="image.resize", queue="images", wait_ms=5, code_version="v1")
    end = Detail(name="image.resize", queue="images", run_ms=12.5, result=result, cpu_ms=3.0, peak_rss=1000)
    return [
        entry(ms, 0, n, [submitted(task_id)], ""),
        entry(ms + 1, 0, n + 1, [Event(Kind.STARTED, task_id, 1, 1, start)]),
        entry(ms + 2, 0, n + 2, [Event(Kind.SUCCEEDED, task_id, 1, 1, end)]),
    ]


class Walk:
    """A task on a walk through the lifecycle table; every choice comes from outside."""

    def __init__(self, task_id: str) -> None:
        self.id = task_id
        self.state: State | None = None
        self.attempt = 0
        self.epoch = 0
        self.lives = 1

    def step(self, choice: int, ms: int) -> Event:
        """The event that the choice picks among the legal ones."""
        if self.state is None:
            due = ms + 5 if choice % 2 else None
            self.state = fold(None, Kind.SUBMITTED, due=due is not None)
            return submitted(self.id, due_ms=due)
        kinds = sorted(kind for state, kind in MOVES if state is self.state) or [Kind.FENCED]
        kind = kinds[choice % len(kinds)]
        event = self._event(kind, choice, ms)
        self.state = fold(self.state, kind)
        return event

    def _event(self, kind: Kind, choice: int, ms: int) -> Event:
        detail = Detail(name="image.resize", queue="images")
        attempt, running = self.attempt, self.state is State.RUNNING
        if kind is Kind.STARTED:
            self.attempt += 1
            self.epoch += 1
            attempt = self.attempt
            detail = msgspec.structs.replace(detail, wait_ms=float(choice), code_version=f"v{choice % 3}")
        elif kind in {Kind.SUCCEEDED, Kind.RETRYING, Kind.DEAD, Kind.RELEASED, Kind.PARKED}:
            detail = self._end(kind, detail, choice, ms)
        elif kind is Kind.CANCELLED:
            how = {"outcome": "cancelled", "run_ms": 1.0} if running else {"actor": "me"}
            detail = msgspec.structs.replace(detail, **how)
        elif kind is Kind.PROGRESSED:
            detail = msgspec.structs.replace(detail, fraction=(choice % 10) / 10, message=f"step {choice}")
        elif kind is Kind.RETRIED:
            attempt = self.attempt = 0
            self.lives += 1
            payload = f'{{"again": {choice}}}' if choice % 3 == 0 else None
            detail = msgspec.structs.replace(detail, actor="me", payload=payload, digest=payload and "d2")
        return Event(kind, self.id, attempt, self.epoch, detail)

    def _end(self, kind: Kind, detail: Detail, choice: int, ms: int) -> Detail:
        run_ms = float(choice % 50)
        if kind is Kind.SUCCEEDED:
            return msgspec.structs.replace(detail, run_ms=run_ms, result=str(choice))
        if kind in {Kind.RELEASED, Kind.PARKED}:
            self.attempt -= 1
            return msgspec.structs.replace(detail, run_ms=run_ms, reason="drain", owner="w9")
        counted = choice % 4 != 0
        self.attempt -= not counted
        error = f'{{"type": "E{choice % 3}", "message": "no", "fingerprint": "f{choice % 3}"}}'
        due = ms + 9 if kind is Kind.RETRYING else None
        return msgspec.structs.replace(
            detail, run_ms=run_ms, outcome="failed", error=error, due_ms=due, counted=counted
        )


def walks(choices: Sequence[Sequence[int]], *, start_ms: int = START_MS) -> tuple[list[Walk], list[Entry]]:
    """One walk per list of choices, interleaved; an entry now and then holds several events."""
    tasks = [Walk(new_id(start_ms)) for _ in choices]
    entries: list[Entry] = []
    together: list[Event] = []
    n, ms = 1, start_ms
    for at, (task, choice) in enumerate(_interleaved(tasks, choices)):
        together.append(task.step(choice, ms))
        if choice % 3 != 1:
            entries.append(entry(ms, at % 2, n, together))
            n += len(together)
            together = []
            ms += 1 + choice % 2
    if together:
        entries.append(entry(ms, 0, n, together))
    return tasks, entries


def _interleaved(tasks: Sequence[Walk], choices: Sequence[Sequence[int]]) -> Iterator[tuple[Walk, int]]:
    for step in range(max(map(len, choices), default=0)):
        for task, own in zip(tasks, choices, strict=True):
            if step < len(own):
                yield task, own[step]


def placed(entries: Sequence[Entry], incarnation: int = 1) -> list[Placed]:
    """The events of entries."""
    batch: Batch = unpack(entries, incarnation)
    assert not batch.broken
    return batch.events
