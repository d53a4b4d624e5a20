"""`taskq api`: the process that serves the REST API."""

from __future__ import annotations

import asyncio
import signal

import setproctitle

from services.api.main import ApiOptions, announce, check_options, serve
from taskq_core.config import Settings
from taskq_core.log import setup_logging

__all__ = ["run_api"]


def run_api(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    no_auth: bool = False,
    allowed_hosts: tuple[str, ...] = (),
    trusted_origins: tuple[str, ...] = (),
    grace: float = 10.0,
) -> int:
    """Serve until SIGTERM or SIGINT, then finish what is under way; answers the exit code.

    Ready, it prints `{"ready": "api", "host": …, "port": …}` on stdout. Raises ConfigError, AlreadyRunning.
    """
    options = ApiOptions(
        host=host,
        port=port,
        no_auth=no_auth,
        allowed_hosts=allowed_hosts,
        trusted_origins=trusted_origins,
        grace=grace,
    )
    check_options(settings, options)
    setup_logging("api")
    setproctitle.setproctitle("taskq api")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(settings, options))
    return 0


async def _run(settings: Settings, options: ApiOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop=stop, options=options, ready=announce)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """The faster loop where there is one."""
    try:
        import uvloop  # noqa: PLC0415  # not on every platform
    except ImportError:
        return None
    return uvloop.Loop
