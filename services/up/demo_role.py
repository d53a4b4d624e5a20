"""The process behind `--demo`: a small website to scrape, and a steady load of sample tasks."""

from __future__ import annotations

import asyncio
import random
import signal

import setproctitle
from tornado.httpserver import HTTPServer

from services.tasks.demo_load import demo_load
from services.tasks.demo_site import make_site
from taskq_core.client import Client
from taskq_core.config import Settings
from taskq_core.log import setup_logging

__all__ = ["run_demo"]

_LOOPBACK = "127.0.0.1"


def run_demo(settings: Settings, site_port: int) -> int:
    """Serve the site and submit until SIGTERM. Raises ConfigError, Unavailable."""
    setproctitle.setproctitle("taskq demo")
    setup_logging("demo")
    asyncio.run(_run(settings, site_port))
    return 0


async def _run(settings: Settings, site_port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    site = HTTPServer(make_site())
    site.listen(site_port, _LOOPBACK)
    try:
        async with Client.of(settings) as client:
            address = f"http://{_LOOPBACK}:{site_port}"
            await demo_load(client.submit, stop, random.randrange(1 << 30), address)
    finally:
        site.stop()
