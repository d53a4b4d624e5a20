"""A declared task: a function with a name, a queue, a retry policy and a JSON Schema.

Pure: it knows how a call becomes bytes and bytes become a call. The app that declared it carries the
orders out; a worker runs `fn`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypedDict, Unpack, overload

from taskq_core.errors import ConfigError, InvalidOption
from taskq_core.handle import Host, TaskHandle
from taskq_core.model.options import (
    MAX_RESULT_TTL_S,
    Backoff,
    CallOptions,
    check_options,
    check_timeout,
)
from taskq_core.model.order import Defaults, Order, Receipt, make_defaults
from taskq_core.model.retry import Retry
from taskq_core.model.signature import Arguments, ReturnType
from taskq_core.model.task import Options, Priority, check_name, check_queue
from taskq_core.words import nearest

__all__ = [
    "CallSettings",
    "ConfiguredTask",
    "Declare",
    "PriorityName",
    "Registry",
    "Task",
    "TaskKind",
    "TaskSettings",
]

type TaskKind = Literal["async", "thread", "isolated"]
type PriorityName = Priority | Literal["high", "normal", "low"]

DEFAULT_RESULT_TTL_S = 300.0


class TaskSettings(TypedDict, total=False):
    """What a declaration may say beside the name."""

    queue: str  # "default" unless given
    retry: Retry
    timeout: float | None  # seconds of one attempt; None: no limit
    priority: PriorityName
    result_ttl: float  # seconds that result and state stay in Redis after the end
    isolate: bool  # run in a process of its own


class CallSettings(TypedDict, total=False):
    """What a caller may say about a call; None is the same as leaving it out."""

    queue: str | None
    priority: PriorityName | None
    delay: float | timedelta | None  # seconds
    run_at: datetime | str | None  # with a time zone
    max_attempts: int | None
    backoff: Backoff | Mapping[str, float] | None
    timeout: float | None  # seconds
    unique_key: str | None
    metadata: Mapping[str, Any] | None
    result_ttl: float | None  # seconds


class Task[**P, R]:
    """A function that runs on a worker. Calling it runs it here and now, as without taskq."""

    def __init__(self, name: str, fn: Callable[P, Any], host: Host, **settings: Unpack[TaskSettings]) -> None:
        """Raises ConfigError when the function or a setting cannot be declared."""
        _refuse_unknown(name, settings)
        timeout = settings.get("timeout")
        try:
            self.name = check_name(name)
            self.queue = check_queue(settings.get("queue", "default"))
            self.timeout = None if timeout is None else check_timeout(timeout)
            self.priority = _check_priority(settings.get("priority", Priority.NORMAL))
            self.result_ttl = _check_ttl(settings.get("result_ttl", DEFAULT_RESULT_TTL_S))
        except InvalidOption as error:
            raise ConfigError(f"task {name[:60]!r}: {error}") from error
        self.fn = fn
        self.retry = settings.get("retry") or Retry()
        self.kind: TaskKind = _kind(name, fn, isolate=settings.get("isolate", False))
        self.module = fn.__module__
        self.doc = (inspect.getdoc(fn) or "").strip()
        self._host = host
        self._arguments = Arguments(name, fn)
        self._returns = ReturnType(name, fn)
        self.defaults: Defaults = make_defaults(
            self.queue, self.priority, self.retry, self.timeout, self.result_ttl
        )
        self.__doc__ = fn.__doc__

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the payload, complete in itself."""
        return self._arguments.schema

    @property
    def run_options(self) -> Options:
        """How it runs unless a caller says otherwise."""
        return self.defaults.options

    def bind(self, payload: bytes) -> dict[str, Any]:
        """Keyword arguments for `fn`. Raises InvalidPayload naming the argument."""
        return self._arguments.bind(payload)

    def encode(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """The payload of a call. Raises InvalidPayload, InvalidJson, TooLarge."""
        return self._arguments.encode(args, kwargs)

    def order(self, payload: bytes, given: CallOptions | None = None) -> Order:
        """A checked payload on its way."""
        return Order(self.name, payload, self.defaults, given)

    def handle(self, receipt: Receipt) -> TaskHandle[R]:
        """The handle of a task that was accepted."""
        return TaskHandle(self._host, receipt, self._returns.decode)

    def options(self, **given: Unpack[CallSettings]) -> ConfiguredTask[P, R]:
        """The task with other options for the calls made through what this returns.

        Raises InvalidOption that names the option and its bounds.
        """
        return ConfiguredTask(self, self._host, check_options(given))

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """Submit one call. Raises InvalidPayload, TooLarge, Unavailable, Full."""
        payload = self._arguments.encode(args, kwargs)
        receipt = await self._host.submit_order(Order(self.name, payload, self.defaults))
        return TaskHandle(self._host, receipt, self._returns.decode)

    async def submit_many(self, calls: Sequence[Mapping[str, Any]]) -> list[TaskHandle[R]]:
        """Submit any number of calls, each a mapping of arguments; the tasks come back in order."""
        return await ConfiguredTask(self, self._host, None).submit_many(calls)

    def submit_sync(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """As `submit`, from code without an event loop."""
        return self._host.run_sync(lambda: self.submit(*args, **kwargs))

    def submit_many_sync(self, calls: Sequence[Mapping[str, Any]]) -> list[TaskHandle[R]]:
        """As `submit_many`, from code without an event loop."""
        return self._host.run_sync(lambda: self.submit_many(calls))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the function here, without a queue."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name} queue={self.queue} {self.kind}>"


class ConfiguredTask[**P, R]:
    """A task with the options of one or more calls."""

    def __init__(self, task: Task[P, R], host: Host, given: CallOptions | None) -> None:
        self._task = task
        self._host = host
        self.given = given

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """As `Task.submit`; also raises Conflict and UniqueTaken."""
        order = self._task.order(self._task.encode(*args, **kwargs), self.given)
        return self._task.handle(await self._host.submit_order(order))

    async def submit_many(self, calls: Sequence[Mapping[str, Any]]) -> list[TaskHandle[R]]:
        """As `Task.submit_many`. Every call is checked before the first is sent."""
        task = self._task
        encode: Callable[..., bytes] = task.encode
        orders = [task.order(encode(**call), self.given) for call in calls]
        return [task.handle(receipt) for receipt in await self._host.submit_orders(orders)]

    def submit_sync(self, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]:
        """As `submit`, from code without an event loop."""
        return self._host.run_sync(lambda: self.submit(*args, **kwargs))

    def submit_many_sync(self, calls: Sequence[Mapping[str, Any]]) -> list[TaskHandle[R]]:
        """As `submit_many`, from code without an event loop."""
        return self._host.run_sync(lambda: self.submit_many(calls))


class Declare(Protocol):
    """What `app.task(…)` returns: it turns a function into a task."""

    @overload
    def __call__[**P, R](self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__[**P, R](self, fn: Callable[P, R], /) -> Task[P, R]: ...


class Registry:
    """What an app has declared; a worker gathers the tasks of every registry in the modules it imports."""

    def __init__(self, host: Host) -> None:
        """`host` carries out what is submitted through the tasks."""
        self._host = host
        self.tasks: dict[str, Task[..., Any]] = {}

    def task(self, name: str, **settings: Unpack[TaskSettings]) -> Declare:
        """Declare a function under a name. Raises ConfigError for a bad name, setting or signature."""

        def declare(fn: Callable[..., Any], /) -> Task[..., Any]:
            declared: Task[..., Any] = Task(name, fn, self._host, **settings)
            self._add(declared)
            return declared

        return declare  # pyright: ignore[reportReturnType]  # the overloads say more than the function

    def _add(self, declared: Task[..., Any]) -> None:
        """The same function may come again (a notebook cell, a reload), another one may not."""
        old = self.tasks.get(declared.name)
        if old is not None and _place(old) != _place(declared):
            raise ConfigError(f"task {declared.name!r} is declared by {_place(old)} and {_place(declared)}")
        self.tasks[declared.name] = declared


def _place(task: Task[..., Any]) -> str:
    return f"{task.module}.{getattr(task.fn, '__qualname__', task.name)}"


def _kind(name: str, fn: Callable[..., Any], *, isolate: bool) -> TaskKind:
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise ConfigError(f"task {name!r}: a generator gives no single result; return a value")
    if isolate:
        return "isolated"
    return "async" if inspect.iscoroutinefunction(fn) else "thread"


def _refuse_unknown(name: str, settings: Mapping[str, object]) -> None:
    for key in settings:
        if key not in TaskSettings.__annotations__:
            hint = nearest(key, TaskSettings.__annotations__)
            raise ConfigError(f"task {name[:60]!r}: unknown setting {key[:60]!r}: {hint}")


def _check_priority(priority: PriorityName) -> Priority:
    try:
        return Priority(priority)
    except ValueError:
        raise InvalidOption(f"priority is high, normal or low, not {priority!r:.40}") from None


def _check_ttl(seconds: float) -> float:
    if not 0.0 <= seconds <= MAX_RESULT_TTL_S:
        raise InvalidOption(f"result_ttl must be 0 to {MAX_RESULT_TTL_S:g} seconds, not {seconds!r:.40}")
    return seconds
