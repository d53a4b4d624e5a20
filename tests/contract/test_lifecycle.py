"""Every (state, event) pair, driven through the functions and compared with the lifecycle table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest

from taskq_core.broker.keys import GROUP
from taskq_core.broker.protocol import Claim, Finish, Held, Op
from taskq_core.errors import Full
from taskq_core.model.event import decode_batch
from taskq_core.model.lifecycle import NEUTRAL, Kind, State, fold, is_legal
from taskq_core.model.retry import Retry
from tests.support.protocol import OPTIONS, QUEUE, Bench
from tests.support.servers import ServerHandle

OWNER = "me.1"
# Nothing writes these yet: their functions come with bulk actions and logs.
UNWRITTEN = {Kind.REPRIORITISED, Kind.LOGGED}


@pytest.fixture
def bench(server: ServerHandle) -> Iterator[Bench]:
    bench = Bench(server.url)
    yield bench
    bench.close()


class Situation:
    """A task brought into a state, and the lease that it has or had."""

    def __init__(self, bench: Bench, state: State) -> None:
        self.bench = bench
        self.task_id = bench.submit(delay_ms=60_000 if state is State.SCHEDULED else 0)
        self.claim: Claim | None = None
        if state in {State.SCHEDULED, State.QUEUED}:
            return
        if state is State.CANCELLED:
            bench.run(bench.broker.cancel(self.task_id, "someone", ""))
            return
        (self.claim,) = bench.take(OWNER).claims
        ends = {
            State.RETRYING: Op.FAIL,
            State.PARKED: Op.PARK,
            State.SUCCEEDED: Op.OK,
            State.DEAD: Op.PERMANENT,
        }
        if state in ends:
            bench.settle(OWNER, self.claim, ends[state])

    @property
    def state(self) -> State:
        record = self.bench.record(self.task_id)
        assert record is not None
        return record.state

    def lease(self) -> Claim:
        """Its lease; for a task that never had one, what a confused worker might believe."""
        never = Claim(self.task_id, QUEUE, "normal", "1-1", 1, 1, "job", "", "", "", 0)
        return self.claim or never


def _submit_again(now: Situation) -> None:
    now.bench.run(now.bench.broker.submit([now.bench.submission(now.task_id)]))


def _promote(now: Situation) -> None:
    now.bench.make_due()
    now.bench.run(now.bench.broker.promote())


def _start(now: Situation) -> None:
    now.bench.take("other.1")


def _progress(now: Situation) -> None:
    lease = now.lease()
    now.bench.run(now.bench.broker.progress(OWNER, now.task_id, lease.epoch, 1.0, "done"))


def _settle(op: Op) -> Callable[[Situation], None]:
    def apply(now: Situation) -> None:
        now.bench.settle(OWNER, now.lease(), op)

    return apply


def _cancel(now: Situation) -> None:
    """Running code is asked first; the event comes when it obeys."""
    now.bench.run(now.bench.broker.cancel(now.task_id, "someone", "why not"))
    if now.state is State.RUNNING:
        now.bench.settle(OWNER, now.lease(), Op.CANCEL)


def _redeliver(now: Situation) -> None:
    """A blocking read took the entry and its process died before it claimed it."""
    keys = now.bench.keys
    now.bench.run(
        now.bench.broker.redis.xreadgroup(GROUP, "gone.1", {keys.ready(QUEUE, "normal"): ">"}, count=1)
    )
    now.bench.run(now.bench.broker.sweep("gone.1", [QUEUE], [], ["*"], "it died"))


def _unpark(now: Situation) -> None:
    now.bench.run(now.bench.broker.unpark(["job"], [QUEUE], -1000))


def _retry(now: Situation) -> None:
    now.bench.run(now.bench.broker.retry_dead(now.task_id, "someone", "again"))


def _late_report(now: Situation) -> None:
    old = now.lease()
    late = Claim(now.task_id, QUEUE, "normal", old.entry, old.epoch + 7, 1, "job", "", "", "", 0)
    now.bench.settle("late.1", late, Op.OK)


def _act(now: Situation) -> None:
    now.bench.run(now.bench.broker.record("look", "{}", "someone", "", now.task_id))


DRIVERS: dict[Kind, Callable[[Situation], None]] = {
    Kind.SUBMITTED: _submit_again,
    Kind.PROMOTED: _promote,
    Kind.STARTED: _start,
    Kind.PROGRESSED: _progress,
    Kind.SUCCEEDED: _settle(Op.OK),
    Kind.RETRYING: _settle(Op.FAIL),
    Kind.DEAD: _settle(Op.PERMANENT),
    Kind.CANCELLED: _cancel,
    Kind.RELEASED: _settle(Op.RELEASE),
    Kind.REDELIVERED: _redeliver,
    Kind.PARKED: _settle(Op.PARK),
    Kind.UNPARKED: _unpark,
    Kind.FENCED: _late_report,
    Kind.RETRIED: _retry,
    Kind.ACTION: _act,
}


def test_every_kind_has_a_driver() -> None:
    assert set(DRIVERS) | UNWRITTEN == set(Kind)


@pytest.mark.parametrize("kind", DRIVERS)
def test_the_functions_move_as_the_table_says(bench: Bench, kind: Kind) -> None:
    for state in State:
        bench.run(bench.broker.redis.flushall(asynchronous=False))
        bench.run(bench.broker.ensure([QUEUE]))
        now = Situation(bench, state)
        assert now.state is state
        before = len(bench.events())
        DRIVERS[kind](now)
        written = [event.kind for event in bench.events()[before:] if event.kind not in NEUTRAL]
        where = f"{kind} while {state}"
        if is_legal(state, kind):
            assert now.state is fold(state, kind), where
            assert written == ([] if kind in NEUTRAL else [kind]), where
        else:
            assert now.state is state, where
            assert written == [], where


def test_a_repeat_of_a_settle_writes_nothing(bench: Bench) -> None:
    for op in (Op.OK, Op.FAIL, Op.PERMANENT, Op.CANCEL, Op.RELEASE, Op.PARK):
        task_id = bench.submit()
        claim = next(c for c in bench.take(OWNER, 50).claims if c.task_id == task_id)
        first = bench.settle(OWNER, claim, op)
        before = len(bench.events())
        assert bench.settle(OWNER, claim, op) == first
        assert len(bench.events()) == before, op


def test_a_late_report_is_fenced_and_changes_nothing(bench: Bench) -> None:
    task_id = bench.submit()
    (old,) = bench.take(OWNER).claims
    bench.age_pending(60_000)
    suspects = bench.run(bench.broker.reclaim([QUEUE], 30_000, 10, [])).suspects
    assert suspects
    assert bench.run(bench.broker.reclaim([QUEUE], 30_000, 10, suspects)).acted == 1
    bench.make_due()
    bench.run(bench.broker.promote())
    (new,) = bench.take("other.1").claims
    assert new.epoch == old.epoch + 1
    assert bench.settle(OWNER, old, Op.OK) == "fenced"
    record = bench.record(task_id)
    assert record is not None
    assert (record.state, record.worker) == (State.RUNNING, "other.1")
    assert [e.kind for e in bench.events()][-1] is Kind.FENCED
    assert bench.settle("other.1", new, Op.OK) == "succeeded"


def test_a_lost_answer_of_take_is_given_again(bench: Bench) -> None:
    bench.submit()
    (first,) = bench.take(OWNER).claims
    before = len(bench.events())
    again = bench.run(bench.broker.take(bench.want(OWNER, 5, again=True))).claims
    assert again == [first]
    known = bench.run(bench.broker.take(bench.want(OWNER, 5, again=True, known=[first.task_id]))).claims
    assert known == []
    assert len(bench.events()) == before


def test_back_off_is_that_of_the_model(bench: Bench) -> None:
    policy = Retry(max_attempts=OPTIONS.max_attempts, base=OPTIONS.base, factor=OPTIONS.factor)
    bench.submit()
    for failures in range(1, OPTIONS.max_attempts):
        (claim,) = bench.take(OWNER).claims
        assert bench.settle(OWNER, claim, Op.FAIL) == "retrying"
        event = bench.events()[-1]
        due, at = event.detail.due_ms, bench.run(_at_of_last(bench))
        assert due is not None
        assert due - at == policy.delay_ms(failures)
        bench.make_due()
        bench.run(bench.broker.promote())
    (claim,) = bench.take(OWNER).claims
    assert bench.settle(OWNER, claim, Op.FAIL) == "dead"


async def _at_of_last(bench: Bench) -> int:
    ((_, fields),) = await bench.broker.redis.xrevrange(bench.keys.events, count=1)
    return decode_batch(fields[b"e"]).at


def test_priorities_are_strict_and_returned_entries_come_first(bench: Bench) -> None:
    ids: dict[str, str] = {}
    for priority in ("low", "normal", "high"):
        (task_id,) = bench.run(bench.broker.new_ids(1))
        ids[priority] = task_id
        submission = bench.submission(task_id)
        bench.run(bench.broker.submit([msgspec.structs.replace(submission, priority=priority)]))
    (high,) = bench.take(OWNER).claims
    assert high.task_id == ids["high"]
    bench.settle(OWNER, high, Op.RELEASE)
    later = bench.submit()
    order = [claim.task_id for claim in bench.take("other.1", 10).claims]
    assert order == [ids["high"], ids["normal"], later, ids["low"]]


def test_what_may_have_crashed_a_runner_goes_to_the_quarantine(bench: Bench) -> None:
    task_id = bench.submit()
    (claim,) = bench.take(OWNER).claims
    bench.settle(OWNER, claim, Op.SHARED_CRASH, solo=True)
    bench.make_due()
    bench.run(bench.broker.promote())
    plain = bench.run(bench.broker.take(bench.want(OWNER, 5, ("high", "normal", "low")))).claims
    assert plain == []
    (solo,) = bench.run(bench.broker.take(bench.want("solo.1", 1, ("solo",)))).claims
    assert (solo.task_id, solo.attempt) == (task_id, 1)
    bench.settle("solo.1", solo, Op.PERMANENT)
    bench.run(bench.broker.retry_dead(task_id, "someone", ""))
    (back,) = bench.take(OWNER).claims
    assert back.stream == "normal"


def test_a_full_server_refuses_submits_and_still_drains(bench: Bench) -> None:
    bench.submit()
    bench.run(bench.broker.redis.config_set("maxmemory", "1mb"))
    try:
        with pytest.raises(Full):
            bench.submit()
        (claim,) = bench.take(OWNER).claims
        assert bench.settle(OWNER, claim, Op.OK) == "succeeded"
    finally:
        bench.run(bench.broker.redis.config_set("maxmemory", "0"))


def test_a_missing_library_is_loaded_again(bench: Bench) -> None:
    bench.run(bench.broker.redis.execute_command("FUNCTION", "FLUSH"))
    bench.submit()
    bench.run(bench.broker.redis.delete(bench.keys.ready(QUEUE, "normal")))
    bench.submit()
    assert len(bench.take(OWNER, 5).claims) == 1, "the group is made again at 0"


@pytest.mark.parametrize("room", [0, 1])
def test_an_entry_that_was_given_back_meanwhile_is_not_touched(bench: Bench, room: int) -> None:
    """A read brought it, a sweep gave it back, another runner has it: the late claim does nothing."""
    task_id = bench.submit()
    key = bench.keys.ready(QUEUE, "normal")
    ((_, [(entry, _)]),) = bench.run(bench.broker.redis.xreadgroup(GROUP, "one.1", {key: ">"}, count=1))
    bench.run(bench.broker.sweep("one.1", [QUEUE], [], ["*"], "orphaned"))
    (claim,) = bench.take("two.1").claims
    before = bench.events()
    held = [Held(QUEUE, "normal", entry.decode(), task_id)]
    assert bench.run(bench.broker.take(bench.want("one.1", room, held=held))).claims == []
    assert bench.events() == before
    assert [one["consumer"] for one in bench.pending("normal")] == [b"two.1"]
    assert bench.settle("two.1", claim, Op.OK) == "succeeded"


def test_damaged_options_fail_no_neighbour(bench: Bench) -> None:
    ids = [bench.submit(), bench.submit()]
    bench.run(bench.broker.redis.hset(bench.keys.task(ids[0]), "o", "not JSON"))
    claims = bench.take(OWNER, 2).claims
    finishes = [Finish(c.task_id, c.entry, c.epoch, Op.FAIL, body="{}") for c in claims]
    assert [s.state for s in bench.run(bench.broker.settle(OWNER, finishes))] == ["retrying", "retrying"]


def test_expired_leases_are_found_among_what_was_given_back(bench: Bench) -> None:
    ids = [bench.submit() for _ in range(30)]
    claims = bench.take(OWNER, 30).claims
    for claim in claims[:-1]:
        bench.settle(OWNER, claim, Op.RELEASE)
    bench.age_pending(60_000)
    found = bench.run(bench.broker.reclaim([QUEUE], 30_000, 10, []))
    assert len(found.suspects) == 1
    assert claims[-1].entry in found.suspects[0]
    assert len(ids) == len(claims)
