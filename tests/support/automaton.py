"""The oracle: reads everything that happened, in both stores, and tells what must not have happened.

It knows the lifecycle and nothing of how the system works. What it demands of each task: a legal chain from
one `submitted`, one end per life, every start settled, no more counted attempts than allowed, and pauses
between attempts as the back-off says. Of all together: event numbers without a hole, every accepted id
there, and (when asked) ended.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import psycopg
import redis
from psycopg.rows import dict_row

from taskq_core.broker.keys import ShardKeys
from taskq_core.model.event import decode_batch
from taskq_core.model.lifecycle import ENDED, NEUTRAL, IllegalMove, Kind, State, fold
from taskq_core.model.task import Options, unpack_options

SCAN_MS = 3_000  # how late a promotion may come on a busy machine
LATE_CLOCK_MS = 1  # the server's clock is read once per call, in whole milliseconds

_EVENTS = """
SELECT incarnation, n, (extract(epoch FROM at) * 1000)::bigint AS at, task_id::text,
       kind, attempt, epoch, detail
FROM taskq.events ORDER BY incarnation, n
"""
_OPTIONS = "SELECT task_id::text, options FROM taskq.payloads WHERE options IS NOT NULL"


class Seen(msgspec.Struct, frozen=True):
    """One event, wherever it was found."""

    incarnation: int
    n: int
    at: int  # server milliseconds
    task_id: str
    kind: Kind
    attempt: int
    epoch: int
    detail: dict[str, Any]


class Report(msgspec.Struct):
    """What was found. `faults` must be empty."""

    events: int = 0
    states: dict[str, State] = {}
    chains: dict[str, list[Seen]] = {}
    faults: list[str] = []

    def kinds(self, task_id: str) -> list[str]:
        """What happened to a task, in order."""
        return [str(seen.kind) for seen in self.chains[task_id]]

    def check(self) -> None:
        """Fails the test when there is a fault."""
        assert not self.faults, f"{len(self.faults)} faults:\n" + "\n".join(self.faults[:20])


def audit(
    redis_url: str, database_url: str, accepted: Iterable[str] = (), *, all_ended: bool = True
) -> Report:
    """Judge everything that the two stores hold. `accepted`: ids that must be there."""
    events, options = _of_history(database_url)
    events += _of_stream(redis_url, after=_last(events))
    report = Report(events=len(events))
    check_numbers(events, report)
    chains: defaultdict[str, list[Seen]] = defaultdict(list)
    for event in events:
        if event.task_id:
            chains[event.task_id].append(event)
    report.chains = dict(chains)
    for task_id, chain in chains.items():
        judge(task_id, chain, options.get(task_id), report)
    check_accepted(list(accepted), report, all_ended=all_ended)
    return report


def _of_history(database_url: str) -> tuple[list[Seen], dict[str, Options]]:
    with psycopg.connect(database_url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        events = [_seen(row) for row in cursor.execute(_EVENTS).fetchall()]
        packed = cursor.execute(_OPTIONS).fetchall()
    return events, {row["task_id"]: unpack_options(row["options"]) for row in packed}


def _seen(row: dict[str, Any]) -> Seen:
    return msgspec.convert(row | {"task_id": row["task_id"] or ""}, Seen)


def _last(events: Sequence[Seen]) -> int:
    return max((event.n for event in events), default=0)


def _of_stream(redis_url: str, after: int) -> list[Seen]:
    """Events that the relay has not carried yet."""
    keys = ShardKeys()
    found: list[Seen] = []
    with redis.Redis.from_url(redis_url) as client:
        untyped: Any = client
        incarnation = int(untyped.hget(keys.meta, "incarnation") or 1)
        for _, fields in untyped.xrange(keys.events):
            batch = decode_batch(fields[b"e"])
            for index, event in enumerate(batch.events):
                if batch.n + index > after:
                    detail = {
                        name: value
                        for name in ("due_ms", "counted", "outcome", "run_ms")
                        if (value := getattr(event.detail, name)) is not None
                    }
                    n = batch.n + index
                    found.append(
                        Seen(
                            incarnation,
                            n,
                            batch.at,
                            event.task_id,
                            event.kind,
                            event.attempt,
                            event.epoch,
                            detail,
                        )
                    )
    return found


def check_numbers(events: Sequence[Seen], report: Report) -> None:
    """I8: the count has no hole."""
    by_incarnation: defaultdict[int, list[int]] = defaultdict(list)
    for event in events:
        by_incarnation[event.incarnation].append(event.n)
    for incarnation, numbers in by_incarnation.items():
        expected = list(range(numbers[0], numbers[0] + len(numbers)))
        if numbers != expected:
            missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
            report.faults.append(f"incarnation {incarnation}: events are missing or doubled: {missing[:10]}")
    if events and events[0].n != 1:
        report.faults.append(f"the history begins with event {events[0].n}")


def check_accepted(accepted: Sequence[str], report: Report, *, all_ended: bool) -> None:
    """I15 and I1: what was accepted is there, and has ended when that is due."""
    lost = [task_id for task_id in accepted if task_id not in report.states]
    if lost:
        report.faults.append(f"{len(lost)} accepted tasks are lost, like {lost[0]}")
    live = [task_id for task_id in accepted if report.states.get(task_id, State.DEAD) not in ENDED]
    if all_ended and live:
        shown = f"{live[0]}: {' '.join(report.kinds(live[0]))}"
        report.faults.append(f"{len(live)} accepted tasks have not ended, like {shown}")


def judge(task_id: str, chain: Sequence[Seen], options: Options | None, report: Report) -> None:
    """Follow one task through all that happened to it; faults go into the report."""
    _Judge(task_id, options, report).judge(chain)


class _Judge:
    """Follows one task through its life, or lives."""

    def __init__(self, task_id: str, options: Options | None, report: Report) -> None:
        self._id = task_id
        self._options = options
        self._report = report
        self._begin_life()

    def _begin_life(self) -> None:
        self._starts = 0
        self._closed = 0
        self._counted = 0
        self._pause: tuple[int, int] | None = None  # when an attempt failed, and how many have by then

    def _fault(self, text: str, chain: Sequence[Seen]) -> None:
        kinds = " ".join(str(seen.kind) for seen in chain)
        self._report.faults.append(f"{self._id}: {text} ({kinds})")

    def judge(self, chain: Sequence[Seen]) -> None:
        """Fold the events in their order."""
        state: State | None = None
        for event in chain:
            before = state
            try:
                state = fold(state, event.kind, due=bool(event.detail.get("due_ms")))
            except IllegalMove as error:
                self._fault(str(error), chain)
                return
            if event.kind not in NEUTRAL:
                self._follow(event, before, chain)
            if state in ENDED and event.kind not in NEUTRAL:
                self._end(chain)
        if state is not None:
            self._report.states[self._id] = state
        if sum(event.kind is Kind.SUBMITTED for event in chain) != 1:
            self._fault("not submitted exactly once", chain)

    def _follow(self, event: Seen, before: State | None, chain: Sequence[Seen]) -> None:
        match event.kind:
            case Kind.RETRIED:
                self._begin_life()
            case Kind.STARTED:
                self._starts += 1
                self._check_pause(event, chain)
            case Kind.SUCCEEDED | Kind.RETRYING | Kind.DEAD:
                self._closed += 1
                self._counted += event.detail.get("counted", True) is not False
            case Kind.CANCELLED | Kind.RELEASED | Kind.PARKED:
                self._closed += before is State.RUNNING
            case _:
                pass
        if event.kind is Kind.RETRYING and event.detail.get("counted", True) is not False:
            self._pause = (event.at, self._counted)
        elif event.kind is Kind.RETRYING:
            self._pause = None

    def _check_pause(self, event: Seen, chain: Sequence[Seen]) -> None:
        """I7: the pause between failure n and the next start is what the back-off says, at least."""
        if self._pause is None or self._options is None:
            return
        failed_at, failures = self._pause
        self._pause = None
        least = self._options.retry.delay_ms(failures)
        waited = event.at - failed_at
        if waited < least - LATE_CLOCK_MS:
            self._fault(f"failure {failures} was followed after {waited} ms, before {least} ms", chain)

    def _end(self, chain: Sequence[Seen]) -> None:
        """I6: what was started was settled, within the attempts allowed."""
        if self._starts != self._closed:
            self._fault(f"{self._starts} starts but {self._closed} ends of attempts", chain)
        if self._options is not None and self._counted > self._options.max_attempts:
            self._fault(f"{self._counted} attempts of {self._options.max_attempts} allowed", chain)


def pauses(report: Report, task_id: str) -> list[int]:
    """Milliseconds between each failure of a task and its next start."""
    found: list[int] = []
    failed_at: int | None = None
    for event in report.chains[task_id]:
        if event.kind is Kind.RETRYING:
            failed_at = event.at
        elif event.kind is Kind.STARTED and failed_at is not None:
            found.append(event.at - failed_at)
            failed_at = None
    return found


def dumps(report: Report) -> str:
    """The report for people, when a test wants to print it."""
    counts: defaultdict[str, int] = defaultdict(int)
    for state in report.states.values():
        counts[str(state)] += 1
    return json.dumps({"events": report.events, **counts, "faults": len(report.faults)})
