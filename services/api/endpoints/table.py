"""Every endpoint of the API that answers in JSON, listed once."""

from __future__ import annotations

import msgspec

from services.api.endpoints import health, submit, system, tasks
from services.api.endpoints.route import JSON, NDJSON, Body, NoQuery, Query, Route, Run
from taskq_core.access.scopes import Scope
from taskq_core.read.views import (
    AttemptList,
    CatalogList,
    EventList,
    OverviewView,
    QueueList,
    TaskList,
    TaskView,
    WorkerList,
)

__all__ = ["ROUTES"]

_READ_S = 4.0  # the reader has its own deadlines per store
_BATCH_S = 30.0
_TASK = "/api/tasks/{id}"
_OPTIONAL = Body(limit=submit.TASK_BYTES, required=False)


def _view(path: str, run: Run, answer: type[msgspec.Struct], query: type[Query] = NoQuery) -> Route:
    return Route(
        method="GET",
        path=path,
        run=run,
        answer=answer,
        scope=Scope.READ,
        query=query,
        deadline_s=_READ_S,
    )


def _open(path: str, run: Run) -> Route:
    return Route(method="GET", path=path, run=run, answer=health.Health, scope=None, deadline_s=_READ_S)


ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/tasks",
        run=submit.submit,
        answer=submit.Accepted,
        scope=Scope.SUBMIT,
        body=Body(limit=submit.TASK_BYTES),
    ),
    Route(
        method="POST",
        path="/api/tasks/batch",
        run=submit.submit_batch,
        answer=submit.BatchAccepted,
        scope=Scope.SUBMIT,
        body=Body(limit=submit.BATCH_BYTES, media=(JSON, *NDJSON)),
        deadline_s=_BATCH_S,
    ),
    _view("/api/tasks", tasks.list_tasks, TaskList, tasks.ListTasks),
    _view(_TASK, tasks.show_task, TaskView),
    _view(_TASK + "/events", tasks.list_events, EventList, tasks.ListEvents),
    _view(_TASK + "/attempts", tasks.list_attempts, AttemptList),
    Route(
        method="GET",
        path=_TASK + "/result",
        run=tasks.result,
        answer=tasks.Result,
        scope=Scope.READ,
        query=tasks.WaitFor,
        deadline_s=tasks.MAX_WAIT_S + _READ_S,
        waits=True,
    ),
    Route(
        method="POST",
        path=_TASK + "/cancel",
        run=tasks.cancel,
        answer=tasks.Done,
        scope=Scope.OPERATE,
        body=_OPTIONAL,
    ),
    Route(
        method="POST",
        path=_TASK + "/retry",
        run=tasks.retry,
        answer=tasks.Done,
        scope=Scope.OPERATE,
        body=_OPTIONAL,
    ),
    _view("/api/overview", system.overview, OverviewView),
    _view("/api/queues", system.queues, QueueList),
    _view("/api/workers", system.workers, WorkerList),
    _view("/api/catalog", system.catalog, CatalogList),
    _open("/health", health.health),
    _open("/health/live", health.live),
    _open("/health/ready", health.ready),
)
