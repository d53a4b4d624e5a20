"""Single submissions that share calls: order, errors, callers who give up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from taskq_core.errors import Conflict, TaskqError, Unavailable
from taskq_core.gather import MOST_TOGETHER, Gather
from taskq_core.model.options import check_options
from taskq_core.model.order import Order, Receipt, make_defaults
from taskq_core.model.retry import Retry
from taskq_core.model.task import Priority
from tests.support.loop import in_loop

DEFAULTS = make_defaults("q", Priority.NORMAL, Retry(), None, 300.0)


def order(name: str) -> Order:
    return Order(name, b"{}", DEFAULTS, check_options({}))


class Wire:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[str]]] = []
        self.open = asyncio.Event()
        self.failure: Exception | None = None

    async def send(self, orders: Sequence[Order], actor: str) -> list[Receipt | TaskqError]:
        self.sent.append((actor, [one.name for one in orders]))
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return [
            Conflict(one.name) if one.name == "bad" else Receipt(one.name, one.name, "q", "queued", 0)
            for one in orders
        ]


async def hand_in(gather: Gather, *names: str, actor: str = "") -> list[asyncio.Task[Receipt]]:
    callers = [asyncio.create_task(gather.submit(order(name), actor)) for name in names]
    await asyncio.sleep(0)  # each has run up to its await
    return callers


@in_loop
async def test_the_first_leaves_at_once_and_the_others_together() -> None:
    wire = Wire()
    gather = Gather(wire.send)
    callers = await hand_in(gather, "a", "b", "c")
    assert wire.sent == [("", ["a"])]
    wire.open.set()
    assert [receipt.id for receipt in await asyncio.gather(*callers)] == ["a", "b", "c"]
    assert wire.sent == [("", ["a"]), ("", ["b", "c"])]


@in_loop
async def test_a_part_has_a_limit() -> None:
    wire = Wire()
    gather = Gather(wire.send)
    callers = await hand_in(gather, *(str(number) for number in range(MOST_TOGETHER + 2)))
    wire.open.set()
    await asyncio.gather(*callers)
    assert [len(names) for _, names in wire.sent] == [1, MOST_TOGETHER, 1]


@in_loop
async def test_actors_do_not_share_a_call() -> None:
    wire = Wire()
    gather = Gather(wire.send)
    callers = await hand_in(gather, "a")
    callers += await hand_in(gather, "b", "c", actor="x")
    callers += await hand_in(gather, "d")
    wire.open.set()
    await asyncio.gather(*callers)
    assert wire.sent == [("", ["a"]), ("x", ["b", "c"]), ("", ["d"])]


@in_loop
async def test_a_refusal_reaches_its_caller_alone() -> None:
    wire = Wire()
    gather = Gather(wire.send)
    callers = await hand_in(gather, "a", "bad", "c")
    wire.open.set()
    first, refused, third = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(refused, Conflict)
    assert [one.id for one in (first, third) if isinstance(one, Receipt)] == ["a", "c"]
    with pytest.raises(Conflict):
        await gather.submit(order("bad"))


@in_loop
async def test_a_failed_call_reaches_everyone_in_it_and_ends_nothing() -> None:
    wire = Wire()
    gather = Gather(wire.send)
    callers = await hand_in(gather, "a", "b", "c")
    wire.failure = Unavailable("away")
    wire.open.set()
    replies = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(reply) for reply in replies] == [Unavailable] * 3
    wire.failure = None
    assert (await gather.submit(order("d"))).id == "d"


@in_loop
async def test_when_patience_ends_nobody_behind_waits_as_long_again() -> None:
    wire = Wire()
    gather = Gather(wire.send)
    callers = await hand_in(gather, "a", "b", "c")
    wire.failure = Unavailable("away")
    wire.open.set()
    await asyncio.gather(*callers, return_exceptions=True)
    assert wire.sent == [("", ["a"])]


@in_loop
async def test_callers_who_give_up_before_sending_submit_nothing() -> None:
    wire = Wire()
    gather = Gather(wire.send)
    first, second, third = await hand_in(gather, "a", "b", "c")
    second.cancel()
    await asyncio.sleep(0)
    wire.open.set()
    assert ((await first).id, (await third).id) == ("a", "c")
    assert wire.sent == [("", ["a"]), ("", ["c"])]


@in_loop
async def test_a_caller_who_gives_up_in_flight_holds_nobody_up() -> None:
    wire = Wire()
    gather = Gather(wire.send)
    first, second = await hand_in(gather, "a", "b")
    first.cancel()
    wire.open.set()
    assert (await second).id == "b"
    assert (await gather.submit(order("c"))).id == "c"


@in_loop
async def test_close_waits_for_what_was_handed_in() -> None:
    wire = Wire()
    gather = Gather(wire.send)
    callers = await hand_in(gather, "a", "b")
    wire.open.set()
    await asyncio.sleep(0)
    await callers[0]
    await gather.close()
    assert callers[1].done() or (await callers[1]).id == "b"
