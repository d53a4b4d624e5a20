"""Events become facts, through the one table of `lifecycle`. Pure: no clock, no connection.

Feed it a stream in order, after seeding the tasks whose beginning lies before the stream's. An event that
the table forbids is kept in `illegal` and changes nothing; an event of a task that was neither seeded nor
submitted here is counted in `unknown`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from taskq_core.model.lifecycle import NEUTRAL, IllegalMove, Kind, Outcome, State, fold
from taskq_core.model.task import unpack_options
from taskq_core.read.facts import AttemptFacts, PlacedEvent, TaskFacts

__all__ = ["Projection"]


class Projection:
    """Tasks and attempts as of the last event that was applied."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskFacts] = {}
        self.attempts: dict[tuple[str, int], AttemptFacts] = {}
        self.illegal: list[str] = []
        self.unknown: set[str] = set()

    def seed(self, tasks: Iterable[TaskFacts], attempts: Iterable[AttemptFacts] = ()) -> None:
        """Take what is known from before the first event."""
        self.tasks.update((task.id, task) for task in tasks)
        self.attempts.update(((attempt.task_id, attempt.epoch), attempt) for attempt in attempts)

    def apply_all(self, events: Iterable[PlacedEvent]) -> None:
        """Apply events in their order."""
        for event in events:
            self.apply(event)

    def apply(self, placed: PlacedEvent) -> None:
        """Apply one event, unless the task was seeded with it or later ones."""
        event = placed.event
        if not event.task_id:
            return
        task = self.tasks.get(event.task_id)
        if task is None and event.kind is not Kind.SUBMITTED:
            self.unknown.add(event.task_id)
            return
        if task is not None and placed.place <= task.place:
            return
        try:
            state = fold(task.state if task else None, event.kind, due=event.detail.due_ms is not None)
        except IllegalMove as error:
            self.illegal.append(f"{placed.id} {event.task_id}: {error}")
            return
        if task is None:
            self.tasks[event.task_id] = _born(placed, state)
        elif event.kind not in NEUTRAL:
            was = task.state
            task.state = state
            task.place = placed.place
            _NOTES.get(event.kind, _note_nothing)(task, placed)
            self._note_attempt(was, placed)

    def _note_attempt(self, was: State, placed: PlacedEvent) -> None:
        event = placed.event
        key = (event.task_id, event.epoch)
        if event.kind is Kind.STARTED:
            if key in self.attempts:  # seeded, and maybe ended already
                return
            self.attempts[key] = AttemptFacts(
                task_id=event.task_id,
                number=event.attempt,
                epoch=event.epoch,
                started_ms=placed.at,
                wait_ms=event.detail.wait_ms,
                worker=event.detail.owner or placed.worker or None,
            )
        elif was is State.RUNNING and event.kind is not Kind.PROGRESSED and key in self.attempts:
            _end(self.attempts[key], placed)


def _born(placed: PlacedEvent, state: State) -> TaskFacts:
    event, detail = placed.event, placed.event.detail
    return TaskFacts(
        id=event.task_id,
        name=detail.name,
        queue=detail.queue,
        state=state,
        priority=detail.priority or None,
        payload=detail.payload,
        metadata=detail.metadata,
        max_attempts=_max_attempts(detail.options),
        submitted_ms=placed.at,
        due_ms=detail.due_ms,
        unique_key=detail.unique_key,
        trace=detail.trace,
        place=placed.place,
    )


def _max_attempts(options: str | bytes | None) -> int | None:
    return unpack_options(options).max_attempts if options else None


def _note_nothing(task: TaskFacts, placed: PlacedEvent) -> None:
    """The state says it all."""


def _note_start(task: TaskFacts, placed: PlacedEvent) -> None:
    event, detail = placed.event, placed.event.detail
    task.attempt, task.epoch = event.attempt, event.epoch
    task.started_ms = task.started_ms or placed.at
    task.wait_ms = detail.wait_ms
    task.run_ms = None
    task.worker = detail.owner or placed.worker or None
    task.code_version = detail.code_version or None


def _note_progress(task: TaskFacts, placed: PlacedEvent) -> None:
    task.fraction, task.message = placed.event.detail.fraction, placed.event.detail.message


def _note_run(task: TaskFacts, placed: PlacedEvent) -> None:
    if placed.event.detail.run_ms is not None:
        task.run_ms = placed.event.detail.run_ms


def _note_failure(task: TaskFacts, placed: PlacedEvent) -> None:
    event, detail = placed.event, placed.event.detail
    _note_run(task, placed)
    task.attempt = event.attempt if detail.counted else event.attempt - 1
    task.error = detail.error or task.error
    if event.kind is Kind.RETRYING:
        task.due_ms = detail.due_ms
    else:
        task.ended_ms = placed.at


def _note_end(task: TaskFacts, placed: PlacedEvent) -> None:
    _note_run(task, placed)
    task.ended_ms = placed.at
    if placed.event.kind is Kind.SUCCEEDED:
        task.result = placed.event.detail.result


def _note_back(task: TaskFacts, placed: PlacedEvent) -> None:
    _note_run(task, placed)
    task.attempt = max(0, placed.event.attempt - 1)


def _note_priority(task: TaskFacts, placed: PlacedEvent) -> None:
    task.priority = placed.event.detail.priority or task.priority


def _note_new_life(task: TaskFacts, placed: PlacedEvent) -> None:
    detail = placed.event.detail
    task.attempt = 0
    task.due_ms = detail.due_ms
    task.started_ms = task.ended_ms = None
    task.wait_ms = task.run_ms = None
    task.worker = task.code_version = None
    task.fraction = task.message = None
    task.result = task.error = None
    _note_priority(task, placed)
    if detail.payload is not None:
        task.payload = detail.payload


_NOTES: dict[Kind, Callable[[TaskFacts, PlacedEvent], None]] = {
    Kind.STARTED: _note_start,
    Kind.PROGRESSED: _note_progress,
    Kind.SUCCEEDED: _note_end,
    Kind.CANCELLED: _note_end,
    Kind.RETRYING: _note_failure,
    Kind.DEAD: _note_failure,
    Kind.RELEASED: _note_back,
    Kind.PARKED: _note_back,
    Kind.REPRIORITISED: _note_priority,
    Kind.PROMOTED: _note_priority,
    Kind.UNPARKED: _note_priority,
    Kind.RETRIED: _note_new_life,
}

_OUTCOMES = {
    Kind.SUCCEEDED: Outcome.SUCCEEDED,
    Kind.CANCELLED: Outcome.CANCELLED,
    Kind.RELEASED: Outcome.RELEASED,
    Kind.PARKED: Outcome.RELEASED,
}


def _end(attempt: AttemptFacts, placed: PlacedEvent) -> None:
    event, detail = placed.event, placed.event.detail
    attempt.ended_ms = placed.at
    attempt.outcome = _OUTCOMES.get(event.kind) or _outcome(detail.outcome)
    attempt.run_ms = detail.run_ms
    attempt.cpu_ms = detail.cpu_ms
    attempt.peak_rss = detail.peak_rss
    attempt.error = detail.error


def _outcome(word: str | None) -> Outcome:
    return Outcome(word) if word in set(Outcome) else Outcome.FAILED
