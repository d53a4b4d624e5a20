"""What a type checker must know of the public names. Checked, never run.

A line that must be refused carries an ignore comment: an ignore that is not needed is an error as well.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=error

from __future__ import annotations

from typing import Any, assert_type

from taskq_core import Retry, TaskHandle, TaskQ
from taskq_core.tasks import Task

app = TaskQ()


@app.task("photos.thumbnail", queue="photos", retry=Retry(max_attempts=4), timeout=60, priority="high")
async def thumbnail(source: str, width: int = 256) -> dict[str, int]:
    return {source: width}


@app.task("sums.add", isolate=True)
def add(a: int, b: int) -> int:
    return a + b


@app.task("demo.noop")
async def noop() -> None: ...


@app.task("demo.echo")
async def echo(**members: Any) -> dict[str, Any]:
    return members


async def submitting() -> None:
    task = await thumbnail.submit(source="cat.jpg", width=256)
    assert_type(task, TaskHandle[dict[str, int]])
    assert_type(await task.result(timeout=30), dict[str, int])
    assert_type(task.result_sync(), dict[str, int])
    assert_type(await add.submit(1, b=2), TaskHandle[int])
    assert_type(add.submit_sync(1, 2).result_sync(), int)
    assert_type(await (await noop.submit()).result(), None)
    assert_type(await echo.submit(anything=1), TaskHandle[dict[str, Any]])
    assert_type(await add.submit_many([{"a": 1, "b": 2}]), list[TaskHandle[int]])
    configured = thumbnail.options(delay=5, priority="low", unique_key="k", metadata={"user": 1})
    assert_type(await configured.submit(source="a"), TaskHandle[dict[str, int]])


async def refused() -> None:
    await thumbnail.submit(source=1)  # pyright: ignore[reportArgumentType]
    await thumbnail.submit(widht=1, source="a")  # pyright: ignore[reportCallIssue]
    await thumbnail.submit()  # pyright: ignore[reportCallIssue]
    await noop.submit(1)  # pyright: ignore[reportCallIssue]
    add.submit_sync(1)  # pyright: ignore[reportCallIssue]
    thumbnail.options(prority="high")  # pyright: ignore[reportCallIssue]
    thumbnail.options(priority="urgent")  # pyright: ignore[reportArgumentType]
    await thumbnail.options().submit(source=2)  # pyright: ignore[reportArgumentType]
    app.task("a", que="b")  # pyright: ignore[reportCallIssue]
    app.task("a", timeout="long")  # pyright: ignore[reportArgumentType]


def declared() -> None:
    tasks: dict[str, Task[..., Any]] = app.tasks
    assert_type(tasks["a"].schema, dict[str, Any])
    assert_type(thumbnail.bind(b"{}"), dict[str, Any])
