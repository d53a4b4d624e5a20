"""The one sentence on health, the same in status, /health, terminal, dashboard and alerts. Pure."""

from __future__ import annotations

import msgspec

from taskq_core.read.views import QueueView, VerdictView, WorkerView

__all__ = ["HealthFacts", "verdict"]

RELAY_SLOW_S = 60.0
MEMORY_SHARE = 0.6
LOST = "lost"


class HealthFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the sentence is made of; None where it cannot be known."""

    redis: bool
    postgres: bool
    queues: list[QueueView] = []
    workers: list[WorkerView] = []
    unexplained: int | None = None
    relay_backlog: int | None = None
    relay_lag_s: float | None = None
    memory_share: float | None = None  # of the limit


def verdict(facts: HealthFacts) -> VerdictView:
    """`down` when nothing can be accepted or run, `degraded` when something needs an operator, else `ok`."""
    if not facts.redis:
        reasons = ["Redis does not answer: nothing is accepted and nothing is run."]
        if not facts.postgres:
            reasons.append("Postgres does not answer either.")
        return VerdictView(level="down", text="Down: Redis does not answer.", reasons=reasons)
    reasons = [reason for check in _CHECKS if (reason := check(facts))]
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        first = reasons[0].rstrip(".")
        return VerdictView(level="degraded", text=f"Degraded: {first}{more}.", reasons=reasons)
    return VerdictView(level="ok", text=_all_well(facts), reasons=[])


def _all_well(facts: HealthFacts) -> str:
    running, waiting = _sum(facts, "running"), _sum(facts, "queued")
    live = sum(worker.state != LOST for worker in facts.workers)
    if not running and not waiting:
        return f"All is well: nothing waits, {_count(live, 'worker')} ready."
    return f"All is well: {running} running on {_count(live, 'worker')}, {waiting} waiting."


def _sum(facts: HealthFacts, state: str) -> int:
    return sum(queue.depth.get(state, 0) for queue in facts.queues)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _unbooked(facts: HealthFacts) -> str | None:
    if not facts.unexplained:
        return None
    return f"The ledger does not add up: {facts.unexplained} tasks are unexplained."


def _no_postgres(facts: HealthFacts) -> str | None:
    if facts.postgres:
        return None
    return "Postgres does not answer: work goes on, the history waits in Redis."


def _nobody_works(facts: HealthFacts) -> str | None:
    names = [
        queue.name
        for queue in facts.queues
        if queue.depth.get("queued") and not queue.paused and not queue.workers
    ]
    if not names:
        return None
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return f"Tasks wait and no worker takes from {shown}."


def _late_relay(facts: HealthFacts) -> str | None:
    lag = facts.relay_lag_s or 0.0
    if lag < RELAY_SLOW_S:
        return None
    events = _count(facts.relay_backlog or 0, "event")
    return f"The history is {lag:.0f} s behind ({events})."


def _memory(facts: HealthFacts) -> str | None:
    share = facts.memory_share or 0.0
    if share < MEMORY_SHARE:
        return None
    return f"Redis uses {share:.0%} of its memory; when it is full, new tasks are refused."


def _lost_workers(facts: HealthFacts) -> str | None:
    lost = sum(worker.state == LOST for worker in facts.workers)
    return f"{_count(lost, 'worker')} went silent." if lost else None


def _parked(facts: HealthFacts) -> str | None:
    parked = _sum(facts, "parked")
    if not parked:
        return None
    return f"{_count(parked, 'task')} parked: no live worker knows the name."


_CHECKS = (_unbooked, _no_postgres, _nobody_works, _late_relay, _memory, _lost_workers, _parked)
