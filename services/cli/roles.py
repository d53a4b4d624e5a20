"""Verbs that run a process: `up`, and each of its roles by itself."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from services.cli.common import Data, read_settings

__all__ = ["add_to"]

API_PORT = 8000

Imports = Annotated[
    list[str] | None,
    typer.Option("--import", metavar="MODULE", help="Module that declares tasks; repeatable."),
]
Reload = Annotated[
    bool, typer.Option("--reload", help="Restart the runners when a file of the tasks changes.")
]
Grace = Annotated[
    float, typer.Option("--grace", min=0.0, metavar="S", help="Seconds that running tasks get at the end.")
]
Host = Annotated[str, typer.Option("--host", help="Address of the API.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the API; 0 takes a free one.")]
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Ask for no API key; on a loopback address only.")]
Parent = Annotated[int | None, typer.Option("--parent-fd", hidden=True)]


def up(  # noqa: PLR0917  # one parameter per option
    data: Data = None,
    host: Host = "127.0.0.1",
    port: Port = API_PORT,
    workers: Annotated[
        int,
        typer.Option(min=1, max=64, help="Runner processes of the worker; each runs many tasks at a time."),
    ] = 1,
    imports: Imports = None,
    reload: Reload = False,
    demo: Annotated[bool, typer.Option("--demo", help="Keep submitting sample tasks.")] = False,
    no_auth: NoAuth = False,
    grace: Grace = 10.0,
) -> int:
    """Start the whole system here: servers, API, worker and relay."""
    from services.up.main import UpOptions, run_up

    return run_up(
        UpOptions(
            data=data,
            host=host,
            port=port,
            workers=workers,
            imports=tuple(imports or ()),
            reload=reload,
            demo=demo,
            no_auth=no_auth,
            grace=grace,
        )
    )


def api(
    data: Data = None,
    host: Host = "127.0.0.1",
    port: Port = API_PORT,
    no_auth: NoAuth = False,
    parent_fd: Parent = None,
) -> int:
    """Run the REST API."""
    from services.up.parent import follow_parent

    follow_parent(parent_fd)
    from services.api.role import run_api

    return run_api(read_settings(data), host=host, port=port, no_auth=no_auth)


def worker(  # noqa: PLR0917  # one parameter per option
    data: Data = None,
    queues: Annotated[
        str, typer.Option(metavar="A,B", help="Queues to take from; those of its tasks unless given.")
    ] = "",
    processes: Annotated[int, typer.Option(min=1, max=64, help="Runner processes.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Async tasks at a time, per process.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="Sync tasks at a time, per process.")] = 16,
    isolated: Annotated[
        int | None, typer.Option(min=1, help="Isolated tasks at a time; the cores unless given.")
    ] = None,
    imports: Imports = None,
    label: Annotated[str, typer.Option(help="A word that tells this worker from others.")] = "",
    reload: Reload = False,
    grace: Grace = 10.0,
    parent_fd: Parent = None,
) -> int:
    """Run a worker: it takes tasks and runs them."""
    from services.up.parent import follow_parent

    follow_parent(parent_fd, patience=grace)
    from services.worker import WorkerFlags, run_worker

    settings = read_settings(data)
    flags = WorkerFlags(
        queues=tuple(part.strip() for part in queues.split(",") if part.strip()),
        processes=processes,
        concurrency=concurrency,
        threads=threads,
        isolated=isolated,
        imports=tuple(imports or settings.import_modules),
        label=label,
        reload=reload,
        grace=grace,
    )
    return run_worker(settings, flags)


def relay(
    data: Data = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve health and metrics here.")
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for it.")] = "127.0.0.1",
    parent_fd: Parent = None,
) -> int:
    """Run the relay: it carries events into the history."""
    from services.up.parent import follow_parent

    follow_parent(parent_fd)
    from services.relay import main
    from taskq_core.log import setup_logging

    setup_logging("relay")
    asyncio.run(main(read_settings(data), metrics_port=metrics_port, metrics_host=metrics_host))
    return 0


def demo_load(site_port: Annotated[int, typer.Option()], parent_fd: Parent = None) -> int:
    """Submit sample tasks; `up --demo` runs it."""
    from services.up.parent import follow_parent

    follow_parent(parent_fd)
    from services.up.demo_role import run_demo

    return run_demo(read_settings(), site_port)


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    for verb in (up, api, worker, relay):
        app.command()(verb)
    app.command("demo-load", hidden=True)(demo_load)
