"""The demonstration: its tasks, their declaration, the website and the load."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import copy_context
from itertools import islice
from typing import Any

import pytest
import tornado.httpserver
import tornado.netutil

from services.tasks import demo, register
from services.tasks.demo_load import demo_load, plan
from services.tasks.demo_site import PAGES, make_site
from services.tasks.http_fetch import PageUnavailable
from services.tasks.scrape import scrape
from taskq_core import TaskQ
from taskq_core.context import Current, enter
from taskq_core.errors import InvalidPayload, Permanent
from tests.support.loop import in_loop

NAMES = {
    *("image.resize", "web.scrape", "demo.echo", "demo.sleep", "demo.flaky"),
    *("demo.fail", "demo.crash", "demo.progress", "demo.noop"),
}


def run_as_task(
    work: Callable[[], Coroutine[Any, Any, Any]], attempt: int = 1
) -> tuple[Any, list[tuple[float, str]]]:
    """Run a task's function as a worker would; answers its result and the progress it told."""
    told: list[tuple[float, str]] = []

    def run() -> Any:
        enter(Current("a-task", attempt, attempt, None, lambda *said: told.append(said)))
        return asyncio.run(work())

    return copy_context().run(run), told


@pytest.fixture
def app() -> TaskQ:
    made = TaskQ()
    register(made)
    return made


# --- declaration


def test_every_sample_task_is_declared(app: TaskQ) -> None:
    assert set(app.tasks) == NAMES
    assert {task.queue for task in app.tasks.values()} == {"images", "web", "demo"}
    assert {name for name, task in app.tasks.items() if task.kind == "isolated"} == {"image.resize"}
    assert {name for name, task in app.tasks.items() if task.kind == "thread"} == set()
    assert all(task.doc for task in app.tasks.values())


def test_declaring_twice_is_allowed(app: TaskQ) -> None:
    register(app)
    assert set(app.tasks) == NAMES


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("image.resize", b'{"source": "a.jpg", "sizes": [[10, 20], [1, 10000]]}'),
        ("image.resize", b'{"source": "upload:00", "sizes": [[1, 1]], "format": "webp"}'),
        ("web.scrape", b'{"url": "http://example.org/"}'),
        ("web.scrape", b'{"url": "http://example.org/", "timeout": 5}'),
        ("demo.echo", b'{"any": [1, {"x": null}], "seconds": "y"}'),
        ("demo.echo", b"{}"),
        ("demo.sleep", b'{"seconds": 0}'),
        ("demo.flaky", b'{"fail_times": 2}'),
        ("demo.fail", b'{"message": "no"}'),
        ("demo.crash", b'{"signal": 9}'),
        ("demo.crash", b'{"signal": "SIGSEGV"}'),
        ("demo.crash", b"{}"),
        ("demo.progress", b'{"steps": 3, "seconds": 0.5}'),
        ("demo.noop", b"{}"),
    ],
)
def test_right_arguments_are_taken(app: TaskQ, name: str, payload: bytes) -> None:
    app.tasks[name].bind(payload)


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("image.resize", b'{"source": "a.jpg"}'),
        ("image.resize", b'{"source": "a.jpg", "sizes": []}'),
        ("image.resize", b'{"source": "a.jpg", "sizes": [[0, 5]]}'),
        ("image.resize", b'{"source": "a.jpg", "sizes": [[10001, 5]]}'),
        ("image.resize", b'{"source": "a.jpg", "sizes": [[5]]}'),
        ("image.resize", b'{"source": "a.jpg", "sizes": [[5, 5, 5]]}'),
        ("image.resize", b'{"source": "a.jpg", "sizes": [["5", 5]]}'),
        ("image.resize", b'{"source": "a.jpg", "sizes": [[1.5, 5]]}'),
        ("image.resize", b'{"source": "a.jpg", "sizes": [' + b"[5, 5]," * 20 + b"[5, 5]]}"),
        ("image.resize", b'{"source": "a.jpg", "sizes": [[5, 5]], "format": "BMP"}'),
        ("image.resize", b'{"source": "a.jpg", "sizes": [[5, 5]], "output": "/etc/x"}'),
        ("image.resize", b'{"source": 5, "sizes": [[5, 5]]}'),
        ("web.scrape", b"{}"),
        ("web.scrape", b'{"url": 5}'),
        ("web.scrape", b'{"url": "http://example.org/", "timeout": 0}'),
        ("web.scrape", b'{"url": "http://example.org/", "timeout": 1000}'),
        ("demo.sleep", b'{"seconds": -1}'),
        ("demo.sleep", b'{"seconds": 1e9}'),
        ("demo.sleep", b'{"seconds": "1"}'),
        ("demo.flaky", b'{"fail_times": -1}'),
        ("demo.crash", b'{"signal": 0}'),
        ("demo.crash", b'{"signal": "SIGNOPE"}'),
        ("demo.progress", b'{"steps": 0, "seconds": 1}'),
        ("demo.noop", b'{"x": 1}'),
    ],
)
def test_wrong_arguments_are_refused(app: TaskQ, name: str, payload: bytes) -> None:
    with pytest.raises(InvalidPayload, match=name):
        app.tasks[name].bind(payload)


def test_declaring_needs_neither_an_http_client_nor_a_parser() -> None:
    code = (
        "import sys; from taskq_core import TaskQ; from services.tasks import register; register(TaskQ()); "
        "print(sorted({'httpx', 'selectolax', 'tornado'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the tasks


def test_echo_and_noop() -> None:
    assert run_as_task(lambda: demo.echo(a=1, b=[None]))[0] == {"a": 1, "b": [None]}
    assert run_as_task(demo.noop)[0] is None


def test_sleep_tells_how_long() -> None:
    assert run_as_task(lambda: demo.sleep(0.01))[0] == {"slept": 0.01}


def test_flaky_fails_as_often_as_told() -> None:
    for attempt in (1, 2):
        with pytest.raises(demo.DemoFailure, match=f"attempt {attempt}"):
            run_as_task(lambda: demo.flaky(2), attempt)
    assert run_as_task(lambda: demo.flaky(2), 3)[0] == {"succeeded_on_attempt": 3}
    assert run_as_task(lambda: demo.flaky(0), 1)[0] == {"succeeded_on_attempt": 1}


def test_fail_says_the_message() -> None:
    with pytest.raises(demo.DemoFailure, match="printer on fire"):
        run_as_task(lambda: demo.fail("printer on fire"))


def test_progress_is_told_after_each_step() -> None:
    result, told = run_as_task(lambda: demo.progress(4, 0.0))
    assert result == {"steps": 4}
    assert told == [
        (0.25, "step 1 of 4"),
        (0.5, "step 2 of 4"),
        (0.75, "step 3 of 4"),
        (1.0, "step 4 of 4"),
    ]


@pytest.mark.parametrize("given", ["'SIGKILL'", "9", "'SIGSEGV'", "11", "'SIGABRT'"])
def test_crash_ends_the_process_with_the_signal(given: str) -> None:
    code = f"import asyncio; from services.tasks.demo import crash; asyncio.run(crash({given}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    number = signal.Signals[given.strip("'")] if "SIG" in given else int(given)
    assert done.returncode == -number


def test_a_signal_that_is_survived_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *call: sent.append(call))
    monkeypatch.setattr(demo, "SURVIVED_S", 0.0)
    with pytest.raises(demo.DemoFailure, match="survived SIGTERM"):
        run_as_task(lambda: demo.crash("SIGTERM"))
    assert sent == [(os.getpid(), signal.SIGTERM)]


# --- the website


@asynccontextmanager
async def site() -> AsyncGenerator[str]:
    server = tornado.httpserver.HTTPServer(make_site())
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    try:
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        server.stop()
        await server.close_all_connections()


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKQ_SCRAPE_ALLOW", "127.0.0.0/8")


@in_loop
async def test_every_page_of_the_site_is_scraped_and_leads_on(allowed: None) -> None:
    assert len(PAGES) == 10
    async with site() as home:
        for path, page in PAGES.items():
            found = await scrape(home + path)
            assert found["title"] == page.title
            assert found["description"] == page.description
            assert found["links"] == [home + link for link in page.links]
            assert found["text_length"] > 50
    linked = {link for page in PAGES.values() for link in page.links}
    assert linked == PAGES.keys() | {"/missing"}


@in_loop
async def test_the_site_fails_as_promised(allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.tasks.demo_site.SLOW_S", 0.01)
    async with site() as home:
        with pytest.raises(Permanent, match="404"):
            await scrape(home + "/missing")
        for _ in range(2):
            with pytest.raises(PageUnavailable, match="503"):
                await scrape(home + "/flaky?visit=7")
            assert (await scrape(home + "/flaky?visit=7"))["status"] == 200
        assert (await scrape(home + "/slow"))["title"] == "The slow page"
        assert (await scrape(home + "/moved"))["url"] == home + "/harbour"


# --- the load


def test_the_plan_is_the_same_for_the_same_seed() -> None:
    one, two, other = (list(islice(plan(seed, "http://site"), 300)) for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_the_plan_is_varied_and_steady(app: TaskQ) -> None:
    import msgspec

    steps = list(islice(plan(3, "http://127.0.0.1:1/"), 2000))
    count = Counter(step.name for step in steps)
    assert set(count) == NAMES - {"demo.crash"}
    assert count["demo.fail"] < 0.05 * len(steps)
    per_second = len(steps) / sum(step.pause for step in steps)
    assert 2 < per_second < 8
    for step in steps:
        app.tasks[step.name].bind(msgspec.json.encode(step.payload))
        assert step.options.keys() <= {"metadata", "priority", "delay"}
    assert any(step.payload.get("seconds") == 20.0 for step in steps)


def test_bursts_come_now_and_then() -> None:
    pauses = [step.pause for step in islice(plan(3), 1000)]
    assert 100 < pauses.count(0.0) < 600


def test_without_a_site_nothing_is_scraped() -> None:
    assert "web.scrape" not in {step.name for step in islice(plan(3), 1000)}


@in_loop
async def test_the_load_runs_until_it_is_stopped_whatever_submit_says() -> None:
    stop = asyncio.Event()
    given: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    async def submit(name: str, payload: dict[str, Any], **options: Any) -> None:
        given.append((name, payload, options))
        if len(given) == 50:
            stop.set()
        if len(given) % 10 == 0:
            raise ConnectionError("the server restarts")

    assert await demo_load(submit, stop, seed=4, speed=10_000) == 45
    expected = [(step.name, step.payload, step.options) for step in islice(plan(4), 50)]
    assert given == expected


@in_loop
async def test_a_stopped_load_submits_nothing() -> None:
    stop = asyncio.Event()
    stop.set()

    async def submit(name: str, payload: dict[str, Any], **options: Any) -> None:
        raise AssertionError(name)

    assert await demo_load(submit, stop, seed=4) == 0
