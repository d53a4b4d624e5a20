"""A steady, varied load for watching: a few tasks a second, most succeed, some retry, some fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from random import Random
from typing import Any, NamedTuple, Protocol

from services.tasks.demo_site import PAGES
from services.tasks.samples import SAMPLES

__all__ = ["Step", "Submit", "demo_load", "plan"]

_log = logging.getLogger(__name__)

# Mean seconds between two tasks: about three a second.
PAUSE_S = 0.35
BURST_EVERY = 60  # tasks
LONG_EVERY = 45
BATCH = (15, 40)
USERS = 50

type Payload = dict[str, Any]
type Call = tuple[str, Payload]


class Submit(Protocol):
    """How the load reaches the queue."""

    async def __call__(self, name: str, payload: Payload, **options: Any) -> object:
        """Submit one task; the options are those of POST /api/tasks."""
        ...


class Step(NamedTuple):
    """One task to submit after a pause in seconds."""

    pause: float
    name: str
    payload: Payload
    options: dict[str, Any]


async def demo_load(
    submit: Submit, stop: asyncio.Event, seed: int, site: str | None = None, speed: float = 1.0
) -> int:
    """Submit tasks until `stop` is set; answers how many were taken.

    `site` is the address of the demonstration's website (without it nothing is scraped). A refused or
    failed submit is logged and the load goes on: the queue may be full or its server restarting.
    """
    taken = 0
    for step in plan(seed, site):
        if await _stopped_within(stop, step.pause / speed):
            break
        try:
            await submit(step.name, step.payload, **step.options)
            taken += 1
        except Exception as error:  # noqa: BLE001  # whatever it is, the load outlives it
            _log.warning("demo load: %s was not taken: %s", step.name, error)
    return taken


def plan(seed: int, site: str | None = None) -> Iterator[Step]:
    """The endless list of tasks; the same for the same seed."""
    chance = Random(seed)
    makers, weights = _mix(site)
    for number in count(1):
        if number % BURST_EVERY == 0:
            yield from _burst(chance)
        if number % LONG_EVERY == 0:
            yield _step(chance, ("demo.progress", {"steps": 20, "seconds": 20.0}))
        (maker,) = chance.choices(makers, weights)
        yield _step(chance, maker(chance))


def _mix(site: str | None) -> tuple[list[Callable[[Random], Call]], list[int]]:
    mix: list[tuple[Callable[[Random], Call], int]] = [
        (_resize, 30),
        (_echo, 20),
        (_sleep, 16),
        (_noop, 8),
        (_flaky, 8),
        (_progress, 4),
        (_fail, 2),
    ]
    if site is not None:
        mix.append((partial(_scrape, site), 30))
    makers, weights = zip(*mix, strict=True)
    return list(makers), list(weights)


def _step(chance: Random, call: Call) -> Step:
    options: dict[str, Any] = {"metadata": {"user": chance.randrange(USERS), "from": "demo"}}
    if chance.random() < 0.1:
        options["priority"] = chance.choice(["high", "low"])
    if chance.random() < 0.05:
        options["delay"] = float(chance.randint(2, 15))
    return Step(chance.expovariate(1 / PAUSE_S), *call, options)


def _burst(chance: Random) -> Iterator[Step]:
    """Many at once, so that a queue is seen to grow and to shrink."""
    for _ in range(chance.randint(*BATCH)):
        yield _step(chance, _sleep(chance))._replace(pause=0.0)


def _resize(chance: Random) -> Call:
    source = chance.choice(list(SAMPLES))
    width = chance.choice([96, 160, 320, 640, 960])
    payload: Payload = {"source": source, "sizes": [[width, width], [width // 2, width // 2]]}
    if chance.random() < 0.3:
        payload["format"] = chance.choice(["JPEG", "PNG", "WEBP"])
    if chance.random() < 0.04:
        payload["source"] = "lost.jpg"
    return "image.resize", payload


def _scrape(site: str, chance: Random) -> Call:
    special = ["/missing", f"/flaky?visit={chance.randrange(10**9)}", "/slow", "/moved"]
    path = chance.choice(special) if chance.random() < 0.25 else chance.choice(list(PAGES))
    return "web.scrape", {"url": site.rstrip("/") + path}


def _echo(chance: Random) -> Call:
    return "demo.echo", {"order": chance.randrange(10_000), "item": chance.choice(["rope", "tar", "sail"])}


def _sleep(chance: Random) -> Call:
    return "demo.sleep", {"seconds": round(min(chance.expovariate(1.5), 6.0), 2)}


def _noop(_: Random) -> Call:
    return "demo.noop", {}


def _flaky(chance: Random) -> Call:
    return "demo.flaky", {"fail_times": chance.choice([1, 1, 2])}


def _progress(chance: Random) -> Call:
    return "demo.progress", {"steps": chance.randint(4, 10), "seconds": float(chance.randint(2, 6))}


def _fail(chance: Random) -> Call:
    return "demo.fail", {"message": chance.choice(["card declined", "no such address", "printer on fire"])}


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True
