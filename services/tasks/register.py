"""Names, queues, limits and retries of the sample tasks."""

from __future__ import annotations

from services.tasks import demo, image, scrape
from taskq_core import Retry, TaskQ

__all__ = ["register"]


def register(app: TaskQ) -> None:
    """Declare every sample task on `app`."""
    # In a process of its own: decoding is what a hostile file attacks, and it keeps a core busy. Memory is
    # bounded by the picture's size (40 million pixels) and by the worker's ceiling, not by a limit set in
    # the task: the process serves many tasks, and a limit on address space could not be lifted again.
    app.task("image.resize", queue="images", isolate=True, timeout=60, retry=Retry(max_attempts=3))(
        image.resize
    )
    app.task("web.scrape", queue="web", timeout=90, retry=Retry(max_attempts=4, jitter=0.5))(scrape.scrape)
    app.task("demo.noop", queue="demo")(demo.noop)
    app.task("demo.echo", queue="demo")(demo.echo)
    app.task("demo.sleep", queue="demo")(demo.sleep)
    app.task("demo.flaky", queue="demo")(demo.flaky)
    app.task("demo.fail", queue="demo")(demo.fail)
    app.task("demo.crash", queue="demo", retry=Retry(max_attempts=2))(demo.crash)
    app.task("demo.progress", queue="demo")(demo.progress)
