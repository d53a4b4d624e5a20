"""Any order of calls keeps the invariants: a Hypothesis machine against a real server.

Two runners that may die, pause past their lease or report late; the oracle is what stands in Redis and the
event log after each step.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from taskq_core.broker.library import Library, load_library
from taskq_core.broker.protocol import Claim, Op
from taskq_core.model.lifecycle import ENDED, NEUTRAL, IllegalMove, Kind, State, fold
from tests.support.protocol import OPTIONS, QUEUE, Bench
from tests.support.servers import ServerHandle

OWNERS = ("one.1", "two.1")
OPS = [op for op in Op if op is not Op.INTERRUPT]
ENDING = {Kind.SUCCEEDED, Kind.DEAD, Kind.CANCELLED}


class ProtocolMachine(RuleBasedStateMachine):
    """Calls in any order. `bench` is set by the test."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.bench.run(self.bench.broker.redis.flushall(asynchronous=False))
        self.bench.run(self.bench.broker.ensure([QUEUE]))
        self.ids: list[str] = []
        self.claims: list[tuple[str, Claim]] = []  # every lease that anyone ever had
        self.suspects: list[str] = []

    # --- what may happen

    @rule(delayed=st.booleans(), unique=st.sampled_from(["", "", "u"]))
    def submit(self, delayed: bool, unique: str) -> None:
        task_id = self.bench.submit(delay_ms=60_000 if delayed else 0, unique=unique)
        if task_id not in self.ids:
            self.ids.append(task_id)

    @precondition(lambda self: self.ids)
    @rule(pick=st.randoms(use_true_random=False))
    def submit_again(self, pick: random.Random) -> None:
        task_id = pick.choice(self.ids)
        before = len(self.bench.events())
        self.bench.run(self.bench.broker.submit([self.bench.submission(task_id)]))
        assert len(self.bench.events()) == before

    @rule(owner=st.sampled_from(OWNERS), most=st.integers(1, 3))
    def take(self, owner: str, most: int) -> None:
        for claim in self.bench.take(owner, most).claims:
            self.claims.append((owner, claim))

    @precondition(lambda self: self.claims)
    @rule(pick=st.randoms(use_true_random=False), op=st.sampled_from(OPS), late=st.booleans())
    def settle(self, pick: random.Random, op: Op, late: bool) -> None:
        """The newest lease, or any that ever was: a repeat, or a late report."""
        self._report(*(pick.choice(self.claims) if late else self.claims[-1]), op)

    @precondition(lambda self: len(self.claims) > 1)
    @rule(op=st.sampled_from(OPS))
    def report_late(self, op: Op) -> None:
        """A runner that was thought dead ends a task that another one runs by now."""
        for owner, claim in self.claims:
            record = self.bench.record(claim.task_id)
            if record is not None and record.state is State.RUNNING and record.epoch > claim.epoch:
                self._report(owner, claim, op)
                return

    def _report(self, owner: str, claim: Claim, op: Op) -> None:
        before = self.bench.record(claim.task_id)
        assert before is not None
        holds = before.state is State.RUNNING and (before.epoch, before.worker) == (claim.epoch, owner)
        self.bench.settle(owner, claim, op, outcome="failed", solo=op is Op.SHARED_CRASH)
        if not holds:
            assert self.bench.record(claim.task_id) == before, "someone without the lease changed the task"

    @rule()
    def come_due(self) -> None:
        self.bench.make_due()
        self.bench.run(self.bench.broker.promote())

    @rule(silent=st.booleans())
    def reclaim(self, silent: bool) -> None:
        if silent:
            self.bench.age_pending(60_000)
        found = self.bench.run(self.bench.broker.reclaim([QUEUE], 30_000, 100, self.suspects))
        self.suspects = found.suspects

    @rule(owner=st.sampled_from(OWNERS))
    def die(self, owner: str) -> None:
        """A runner died; its supervisor gives back what it held."""
        self.bench.run(self.bench.broker.sweep(owner, [QUEUE], [], ["*"], "died"))

    @precondition(lambda self: self.ids)
    @rule(pick=st.randoms(use_true_random=False))
    def cancel(self, pick: random.Random) -> None:
        self.bench.run(self.bench.broker.cancel(pick.choice(self.ids), "someone", ""))

    @precondition(lambda self: self.ids)
    @rule(pick=st.randoms(use_true_random=False))
    def retry(self, pick: random.Random) -> None:
        self.bench.run(self.bench.broker.retry_dead(pick.choice(self.ids), "someone", ""))

    @rule()
    def unpark(self) -> None:
        self.bench.run(self.bench.broker.unpark(["job"], [QUEUE], -1000))

    @precondition(lambda self: self.claims)
    @rule(pick=st.randoms(use_true_random=False))
    def renew(self, pick: random.Random) -> None:
        owner, claim = pick.choice(self.claims)
        self.bench.run(self.bench.broker.renew(owner, [(claim.task_id, claim.entry, claim.epoch)]))

    # --- what must hold

    @invariant()
    def every_task_is_in_one_place(self) -> None:
        """I1, I2."""
        entries = self.bench.entries()
        due, parked = self.bench.members(self.bench.keys.due), self.bench.members(self.bench.keys.parked)
        for task_id in self.ids:
            record = self.bench.record(task_id)
            assert record is not None, "an accepted task is gone"
            places = Counter(
                ready=len(entries.get(task_id, [])), due=int(task_id in due), parked=int(task_id in parked)
            )
            places = +places
            expected: dict[State, dict[str, int]] = {
                State.SCHEDULED: {"due": 1},
                State.RETRYING: {"due": 1},
                State.PARKED: {"parked": 1},
                State.QUEUED: {"ready": 1},
                State.RUNNING: {"ready": 1},
            }
            assert dict(places) == expected.get(record.state, {}), record.state
            if record.state in {State.QUEUED, State.RUNNING}:
                assert entries[task_id] == [record.entry]

    @invariant()
    def the_log_is_legal_and_gives_the_state(self) -> None:
        """I3 to I6, and the fold of the log is what stands."""
        states: dict[str, State | None] = dict.fromkeys(self.ids)
        epochs: dict[str, int] = defaultdict(int)
        counted: Counter[str] = Counter()
        for event in self.bench.events():
            before = states[event.task_id]
            states[event.task_id] = fold(before, event.kind, due=event.detail.due_ms is not None)
            if event.kind in NEUTRAL:
                continue
            assert event.epoch >= epochs[event.task_id], "the epoch fell"
            if event.kind is Kind.STARTED:
                assert event.epoch == epochs[event.task_id] + 1
                counted[event.task_id] += 1
            elif event.kind in {Kind.RELEASED, Kind.PARKED} or not event.detail.counted:
                counted[event.task_id] -= 1
            elif event.kind is Kind.RETRIED:
                counted[event.task_id] = 0
            assert counted[event.task_id] <= OPTIONS.max_attempts
            epochs[event.task_id] = event.epoch
        for task_id in self.ids:
            record = self.bench.record(task_id)
            assert record is not None
            assert (record.state, record.epoch) == (states[task_id], epochs[task_id])
            assert record.attempt == counted[task_id], f"{record.attempt} {counted[task_id]}"

    @invariant()
    def the_ledger_is_even(self) -> None:
        """accepted = live + ended, from counters written in the same calls."""
        counters = self.bench.counters()
        accepted = sum(n for name, n in counters.items() if name.startswith(("submitted:", "retried:")))
        ended = sum(n for name, n in counters.items() if name.startswith("ended:"))
        live = sum(
            1
            for task_id in self.ids
            if (r := self.bench.record(task_id)) is not None and r.state not in ENDED
        )
        assert accepted == live + ended

    @invariant()
    def one_unique_key_one_task(self) -> None:
        """I11: the key names a live task, or nobody."""
        holder = self.bench.run(self.bench.broker.redis.get(self.bench.keys.unique(QUEUE, "u")))
        live = [
            task_id
            for task_id in self.ids
            if (r := self.bench.record(task_id)) is not None and r.unique_key == "u" and r.state not in ENDED
        ]
        assert live == ([] if holder is None else [holder.decode()])

    def teardown(self) -> None:
        """Left alone, everything ends: no call order may strand a task."""
        for _ in range(20):
            self.come_due()
            self.unpark()
            self.bench.age_pending(60_000)
            for _ in range(2):
                self.reclaim(silent=False)
            for claim in self.bench.take("three.1", 100).claims:
                self.bench.settle("three.1", claim, Op.OK)
        left = {
            task_id: record.state
            for task_id in self.ids
            if (record := self.bench.record(task_id)) is not None and record.state not in ENDED
        }
        assert left == {}, "these never end"
        assert self.bench.entries() == {}


@pytest.fixture
def bench(server: ServerHandle) -> Iterator[Bench]:
    bench = Bench(server.url)
    yield bench
    bench.close()


def run_machine(bench: Bench, *phases: Phase, examples: int = 40) -> None:
    ProtocolMachine.bench = bench
    run_state_machine_as_test(
        ProtocolMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=phases,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


@pytest.mark.slow
def test_no_order_of_calls_breaks_an_invariant(bench: Bench) -> None:
    run_machine(bench, Phase.generate, Phase.shrink, examples=100)


# Each is a mistake that the protocol exists to avoid: (in this file's text, becomes).
MUTANTS = {
    "no fence": ("and epoch == f[3] and entry == f[2] and holder == reporter then", "then"),
    "the epoch does not rise": (
        "epoch, attempt = epoch + 1, attempt + 1",
        "epoch, attempt = epoch, attempt + 1",
    ),
    "a settled entry stays in the line": ("redis.call('XDEL', key, unpack(list))", ""),
    "a release counts": (
        "moved(task, 'queued', task.attempt - 1, ctx.now)",
        "moved(task, 'queued', task.attempt, ctx.now)",
    ),
    "promoted and still due": ("redis.call('ZREM', prefix .. 'due', unpack(due))", ""),
    "an event without its change": (
        "redis.call('HSET', key, 'l', life_text('running', epoch, attempt, entry, want[1], ctx.now_text))",
        "",
    ),
    "the unique key is never freed": ("redis.call('DEL', key)", ""),
    "a silent holder keeps its task": ("elseif acted < most then", "elseif false then"),
}


@pytest.mark.slow
@pytest.mark.parametrize("server", ["valkey"], indirect=True)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_oracle_sees_a_broken_protocol(bench: Bench, mutant: str) -> None:
    whole, broken = MUTANTS[mutant]
    text = load_library().body
    assert whole in text
    text = text.replace(whole, broken)
    bench.use(Library(text))
    with pytest.raises((AssertionError, IllegalMove)):
        run_machine(bench, Phase.generate, examples=200)  # ends at the first that fails
