"""The life of a task: its states, what may happen in each, and what it is then.

This table is the only definition. The Lua functions are held to it by a contract test over every
(state, event) pair, the projections fold with it, and `docs/lifecycle.md` draws it.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "ENDED",
    "LIVE",
    "MOVES",
    "NEUTRAL",
    "IllegalMove",
    "Kind",
    "Outcome",
    "State",
    "fold",
    "is_legal",
]


class State(StrEnum):
    """Where a task stands."""

    SCHEDULED = "scheduled"  # waits for its due time; never started in this life
    QUEUED = "queued"  # in a ready stream, any worker may take it
    RUNNING = "running"  # a runner holds the lease
    RETRYING = "retrying"  # a failed attempt is behind it, the next is due later
    PARKED = "parked"  # no live worker knows its name
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Kind(StrEnum):
    """What may happen to a task."""

    SUBMITTED = "submitted"
    PROMOTED = "promoted"  # its due time came
    STARTED = "started"
    PROGRESSED = "progressed"
    SUCCEEDED = "succeeded"
    RETRYING = "retrying"  # a failed attempt, another will follow
    DEAD = "dead"  # a failed attempt, no other will follow
    CANCELLED = "cancelled"
    RELEASED = "released"  # given back unfinished; the attempt does not count
    REDELIVERED = "redelivered"  # was handed to a runner that never claimed it
    PARKED = "parked"
    UNPARKED = "unparked"
    REPRIORITISED = "reprioritised"
    FENCED = "fenced"  # a late report of an old lease was refused
    RETRIED = "retried"  # an operator gave an ended task a new life
    LOGGED = "logged"
    ACTION = "action"  # an operator did something


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    LEASE_EXPIRED = "lease_expired"
    CANCELLED = "cancelled"
    RELEASED = "released"


ENDED = frozenset({State.SUCCEEDED, State.DEAD, State.CANCELLED})
LIVE = frozenset(State) - ENDED

# Allowed anywhere in a life, and changing nothing.
NEUTRAL = frozenset({Kind.FENCED, Kind.LOGGED, Kind.ACTION})

# (state before, event) -> states that may follow. `submitted` starts in no state: None.
MOVES: dict[tuple[State | None, Kind], frozenset[State]] = {
    (None, Kind.SUBMITTED): frozenset({State.QUEUED, State.SCHEDULED}),
    (State.SCHEDULED, Kind.PROMOTED): frozenset({State.QUEUED}),
    (State.RETRYING, Kind.PROMOTED): frozenset({State.QUEUED}),
    (State.QUEUED, Kind.STARTED): frozenset({State.RUNNING}),
    (State.QUEUED, Kind.REDELIVERED): frozenset({State.QUEUED}),
    (State.QUEUED, Kind.REPRIORITISED): frozenset({State.QUEUED}),
    (State.RUNNING, Kind.PROGRESSED): frozenset({State.RUNNING}),
    (State.RUNNING, Kind.SUCCEEDED): frozenset({State.SUCCEEDED}),
    (State.RUNNING, Kind.RETRYING): frozenset({State.RETRYING}),
    (State.RUNNING, Kind.DEAD): frozenset({State.DEAD}),
    (State.RUNNING, Kind.RELEASED): frozenset({State.QUEUED}),
    (State.RUNNING, Kind.PARKED): frozenset({State.PARKED}),
    (State.PARKED, Kind.UNPARKED): frozenset({State.QUEUED}),
    (State.DEAD, Kind.RETRIED): frozenset({State.QUEUED}),
    (State.CANCELLED, Kind.RETRIED): frozenset({State.QUEUED}),
    **{(state, Kind.CANCELLED): frozenset({State.CANCELLED}) for state in LIVE},
}


class IllegalMove(ValueError):
    """An event that the table does not allow in that state."""


def is_legal(state: State | None, kind: Kind) -> bool:
    """Whether this event may happen in this state."""
    return (state, kind) in MOVES or (state is not None and kind in NEUTRAL)


def fold(state: State | None, kind: Kind, *, due: bool = False) -> State:
    """The state after an event.

    `due` tells a submission with a later due time (its event carries `due_ms`) from one that is ready.
    Raises IllegalMove when the table does not allow the event.
    """
    if state is not None and kind in NEUTRAL:
        return state
    after = MOVES.get((state, kind))
    if after is None:
        message = f"{kind} cannot happen to a task that is {state or 'unknown'}"
        raise IllegalMove(message)
    if kind is Kind.SUBMITTED:
        return State.SCHEDULED if due else State.QUEUED
    (only,) = after
    return only
