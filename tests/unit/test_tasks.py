"""Declaring tasks, binding payloads, and what a call becomes."""

from __future__ import annotations

import inspect
import timeit
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, Unpack

import jsonschema_rs
import msgspec
import pytest

from taskq_core.app import TaskQ
from taskq_core.errors import ConfigError, InvalidJson, InvalidOption, InvalidPayload, TooLarge
from taskq_core.handle import TaskHandle
from taskq_core.model.order import Order, Receipt
from taskq_core.model.retry import Retry
from taskq_core.tasks import Task, TaskSettings
from tests.support.loop import in_loop


class Recorder:
    """A host that keeps what it is handed."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.result = b"null"

    async def submit_order(self, order: Order) -> Receipt:
        self.orders.append(order)
        return Receipt(f"id-{len(self.orders)}", order.name, order.defaults.queue, "queued", 0)

    async def submit_orders(self, orders: Sequence[Order]) -> list[Receipt]:
        return [await self.submit_order(order) for order in orders]

    async def raw_result(self, task_id: str, timeout: float | None = None) -> bytes:
        return self.result

    async def cancel(self, task_id: str, *, actor: str = "", reason: str = "") -> str:
        return "cancelled"

    def run_sync[T](self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        with pytest.raises(StopIteration) as stop:
            work().send(None)
        return stop.value.value


class Box(msgspec.Struct):
    width: int
    height: int


async def thumbnail(source: str, width: int = 256) -> dict[str, int]:
    """Make a small image.

    Second paragraph.
    """
    return {"width": width, "source": len(source)}


def crop(source: str, box: Box, *, tags: Sequence[str] = ("a",), at: datetime | None = None) -> Box:
    return box


def echo(**members: Any) -> dict[str, Any]:
    return members


def numbers(first: int, **others: int) -> int:
    return first + sum(others.values())


def noop() -> None: ...


def declare(
    name: str, function: Callable[..., Any], host: Recorder, **settings: Unpack[TaskSettings]
) -> Task[..., Any]:
    return Task(name, function, host, **settings)


@pytest.fixture
def host() -> Recorder:
    return Recorder()


def test_schema_is_complete_in_itself(host: Recorder) -> None:
    task = declare("photos.thumbnail", thumbnail, host)
    assert task.schema == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "photos.thumbnail",
        "description": "Make a small image.",
        "type": "object",
        "properties": {"source": {"type": "string"}, "width": {"type": "integer", "default": 256}},
        "required": ["source"],
        "additionalProperties": False,
    }
    assert declare("crop", crop, host).schema["$defs"]["Box"]["required"] == ["width", "height"]


@pytest.mark.parametrize(
    ("function", "payload"),
    [
        (thumbnail, {"source": "a"}),
        (
            crop,
            {"source": "a", "box": {"width": 1, "height": 2}, "tags": ["b"], "at": "2030-01-01T00:00:00Z"},
        ),
        (echo, {"a": [1, {"b": None}]}),
        (numbers, {"first": 1, "x": 2}),
        (noop, {}),
    ],
)
def test_schema_and_binding_agree_on_good_payloads(
    host: Recorder, function: Callable[..., Any], payload: dict[str, Any]
) -> None:
    task = declare("t", function, host)
    jsonschema_rs.Draft202012Validator(task.schema, validate_formats=True).validate(payload)
    bound = task.bind(msgspec.json.encode(payload))
    assert bound.keys() >= payload.keys()
    inspect.signature(function).bind(**bound)


@pytest.mark.parametrize(
    ("function", "payload", "why"),
    [
        (thumbnail, b'{"source":1}', "t: source: Expected `str`, got `int`"),
        (thumbnail, b'{"source":"a","width":"1"}', "t: width: Expected `int`, got `str`"),
        (thumbnail, b'{"source":"a","width":true}', "t: width: Expected `int`, got `bool`"),
        (thumbnail, b'{"source":"a","widht":1}', "unknown field `widht`"),
        (thumbnail, b"{}", "missing required field `source`"),
        (thumbnail, b"[]", "Expected `object`, got `array`"),
        (thumbnail, b"null", "Expected `object`"),
        (thumbnail, b"", "not JSON"),
        (thumbnail, b"{", "not JSON"),
        (crop, b'{"source":"a","box":{"width":1,"height":"x"}}', "t: box.height: Expected `int`"),
        (crop, b'{"source":"a","box":{"width":1,"height":1},"tags":[1]}', r"t: tags\[0\]: Expected `str`"),
        (crop, b'{"source":"a","box":{"width":1,"height":1},"at":"soon"}', "t: at: Invalid"),
        (numbers, b'{"first":1,"x":"y"}', "x"),
        (echo, b"[1]", "JSON object"),
        (noop, b'{"a":1}', "unknown field `a`"),
    ],
)
def test_bind_names_the_argument(
    host: Recorder, function: Callable[..., Any], payload: bytes, why: str
) -> None:
    with pytest.raises(InvalidPayload, match=why):
        declare("t", function, host).bind(payload)


def test_defaults_that_are_no_json_stay_the_functions_own(host: Recorder) -> None:
    task = declare("crop", crop, host)
    bound = task.bind(b'{"source":"a","box":{"width":1,"height":2}}')
    assert bound == {"source": "a", "box": Box(1, 2), "at": None}


def test_integers_survive(host: Recorder) -> None:
    assert declare("n", numbers, host).bind(b'{"first":9007199254740993}') == {"first": 2**53 + 1}


def test_bind_is_quick(host: Recorder) -> None:
    task = declare("t", thumbnail, host)
    payload = b'{"source":"cat.jpg","width":256}'
    best = min(timeit.repeat(lambda: task.bind(payload), number=2000, repeat=5)) / 2000
    assert best < 20e-6  # 2 µs is the goal; slack for a busy machine


def test_call_becomes_bytes(host: Recorder) -> None:
    task = declare("t", thumbnail, host)
    assert task.encode(source="cat.jpg", width=1) == b'{"source":"cat.jpg","width":1}'
    assert task.encode("cat.jpg", 1) == b'{"source":"cat.jpg","width":1}'
    assert task.encode("cat.jpg") == b'{"source":"cat.jpg"}'


def test_wrong_calls_are_refused_before_they_leave(host: Recorder) -> None:
    task = declare("t", thumbnail, host)
    with pytest.raises(InvalidPayload, match="width"):
        task.encode(source="a", width="wide")
    with pytest.raises(InvalidPayload, match="3 positional arguments, it takes 2"):
        task.encode("a", 1, 2)
    with pytest.raises(InvalidPayload, match="'source' is given twice"):
        task.encode("a", source="b")
    with pytest.raises(TooLarge, match="the limit is 262144"):
        task.encode(source="x" * 300_000)
    with pytest.raises(InvalidJson):
        task.encode(source="\0")


async def _agen() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda a, /: a, "'a' is positional-only"),
        (lambda *rest: rest, r"\*rest has no names"),
        (_agen, "a generator gives no single result"),
    ],
)
def test_signatures_that_cannot_travel(host: Recorder, function: Callable[..., Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        declare("t", function, host)


def test_types_that_cannot_travel(host: Recorder) -> None:
    def odd(callback: Callable[[], None]) -> None: ...

    with pytest.raises(ConfigError, match="'t'"):
        declare("t", odd, host)


def test_types_that_are_not_there(host: Recorder) -> None:
    def lost(a: Missing) -> None: ...  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]  # noqa: F821

    with pytest.raises(ConfigError, match="Missing"):
        declare("t", lost, host)  # pyright: ignore[reportUnknownArgumentType]


def test_unannotated_parameters_take_anything(host: Recorder) -> None:
    task = declare("t", lambda a, b=None: (a, b), host)
    assert task.bind(b'{"a":[1,"x"]}') == {"a": [1, "x"], "b": None}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"que": "a"}, "unknown setting 'que': did you mean 'queue'"),
        ({"queue": "a:b"}, "queue 'a:b'"),
        ({"timeout": 0}, "timeout"),
        ({"priority": "urgent"}, "high, normal or low"),
        ({"result_ttl": -1}, "result_ttl"),
    ],
)
def test_bad_settings(host: Recorder, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        declare("t", noop, host, **settings)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "../x", "x" * 129, "-a", "a\n"])
def test_bad_names(host: Recorder, name: str) -> None:
    with pytest.raises(ConfigError, match="task name"):
        declare(name, noop, host)


def test_kinds(host: Recorder) -> None:
    assert declare("t", thumbnail, host).kind == "async"
    assert declare("t", noop, host).kind == "thread"
    assert declare("t", noop, host, isolate=True).kind == "isolated"


def test_settings_reach_the_defaults(host: Recorder) -> None:
    task = declare(
        "t", noop, host, queue="q", retry=Retry(max_attempts=2), timeout=5, priority="high", result_ttl=1
    )
    assert task.run_options.retry == Retry(max_attempts=2)
    assert (task.run_options.timeout, task.run_options.result_ttl) == (5, 1)
    assert (task.queue, task.priority) == ("q", "high")


@in_loop
async def test_submit(host: Recorder) -> None:
    task = declare("t", thumbnail, host)
    handle = await task.submit(source="a", width=2)
    assert isinstance(handle, TaskHandle)
    assert (handle.id, handle.name, handle.state) == ("id-1", "t", "queued")
    assert host.orders[0].payload == b'{"source":"a","width":2}'
    assert host.orders[0].given is None


@in_loop
async def test_submit_with_options(host: Recorder) -> None:
    task = declare("t", thumbnail, host)
    await task.options(delay=5, priority="high").submit(source="a")
    given = host.orders[0].given
    assert given is not None
    assert (given.delay, given.priority) == (5, "high")
    with pytest.raises(InvalidOption, match="did you mean 'delay'"):
        task.options(dealy=5)  # pyright: ignore[reportCallIssue]


@in_loop
async def test_submit_many_checks_all_before_the_first_leaves(host: Recorder) -> None:
    task = declare("t", thumbnail, host)
    handles = await task.submit_many([{"source": str(n)} for n in range(3)])
    assert [handle.id for handle in handles] == ["id-1", "id-2", "id-3"]
    with pytest.raises(InvalidPayload):
        await task.submit_many([{"source": "a"}, {"source": 1}])
    assert len(host.orders) == 3


def test_submit_sync(host: Recorder) -> None:
    task = declare("t", thumbnail, host)
    assert task.submit_sync(source="a").id == "id-1"
    assert [one.id for one in task.submit_many_sync([{"source": "a"}])] == ["id-2"]


@in_loop
async def test_result_gets_its_type_back(host: Recorder) -> None:
    handle = await declare("crop", crop, host).submit("a", Box(1, 2))
    host.result = b'{"width":3,"height":4}'
    assert await handle.result() == Box(3, 4)
    host.result = b'{"wide":3}'  # written by an older version
    assert await handle.result() == {"wide": 3}


@in_loop
async def test_calling_a_task_runs_it_here(host: Recorder) -> None:
    assert await declare("t", thumbnail, host)("abc", width=1) == {"width": 1, "source": 3}


def test_app_collects_tasks() -> None:
    app = TaskQ()

    @app.task("a.b", queue="q")
    async def one() -> None: ...

    assert app.tasks == {"a.b": one}
    with pytest.raises(ConfigError, match="is declared by"):
        app.task("a.b")(noop)


def test_app_takes_the_same_function_again() -> None:
    app = TaskQ()
    for _ in range(2):
        app.task("a.b")(noop)
    assert len(app.tasks) == 1
