"""The API process: composed, served, drained."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from services.api.app import make_app
from services.api.auth import Auth
from services.api.core import Core
from services.api.guard import Guard, is_loopback
from services.api.handlers import SLACK
from services.tasks.files import FileStore
from taskq_core.access.store import KeyStore
from taskq_core.audit.history import open_pool
from taskq_core.broker.functions import Broker
from taskq_core.broker.keys import KEY_PREFIX
from taskq_core.client import Client
from taskq_core.config import Settings
from taskq_core.direct import DirectBackend
from taskq_core.errors import AlreadyRunning, ConfigError, Unavailable
from taskq_core.read.direct import DirectReader

__all__ = ["ApiOptions", "announce", "open_core", "serve"]

PATIENCE_S = 1.2  # a caller hears within two seconds that Redis is away
HEADER_BYTES = 16 * 1024
IDLE_S = 65.0  # between requests, and for the headers of one
BODY_S = 30.0
BUFFER_BYTES = 8 << 20  # of one connection; a slow reader is waited for beyond it
RETRY_S = 1.0
_log = logging.getLogger("taskq.api")


class ApiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one API process is to serve."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    no_auth: bool = False
    allowed_hosts: tuple[str, ...] = ()  # names in Host headers, besides those of loopback
    trusted_origins: tuple[str, ...] = ()  # exact, like https://tasks.example.org
    grace: float = 10.0  # seconds for requests under way at the end


def check_options(settings: Settings, options: ApiOptions) -> None:
    """Raises ConfigError for what must not be served."""
    if not settings.redis_url or not settings.database_url:
        raise ConfigError("the API needs TASKQ_REDIS_URL and TASKQ_DATABASE_URL")
    if options.no_auth and not is_loopback(options.host):
        raise ConfigError(f"--no-auth is for loopback addresses only, not {options.host}; leave it out")


async def serve(
    settings: Settings,
    *,
    stop: asyncio.Event,
    options: ApiOptions | None = None,
    ready: Callable[[str, int], None] | None = None,
) -> None:
    """Serve until `stop` is set, then finish what is under way. `ready` hears where it listens.

    Redis may come later. Raises ConfigError, AlreadyRunning for a taken port.
    """
    options = options or ApiOptions()
    check_options(settings, options)
    sockets = bind(options.host, options.port)
    try:
        async with open_core(settings, options, stop) as core:
            if core is None:
                return
            server = _start(core, sockets)
            host, port = sockets[0].getsockname()[:2]
            _log.info("the API listens on %s port %d", host, port)
            if ready is not None:
                ready(host, port)
            _ = await stop.wait()
            await _drain(server, core, options.grace)
    finally:
        for one in sockets:
            one.close()


def announce(host: str, port: int) -> None:
    """Tell whoever started this process where it listens: one JSON line on stdout."""
    _ = sys.stdout.write(json.dumps({"ready": "api", "host": host, "port": port}) + "\n")
    _ = sys.stdout.flush()


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets. Raises AlreadyRunning, ConfigError."""
    try:
        return _bind(host, port)
    except socket.gaierror as error:
        raise ConfigError(f"the address {host!r} cannot be listened on: {error.strerror}") from error
    except (OSError, OverflowError) as error:
        raise AlreadyRunning(
            f"port {port} of {host} is taken or not allowed ({error}); choose another with --port"
        ) from error


def _bind(host: str, port: int) -> list[socket.socket]:
    """Tornado leaves its socket to the garbage collector when the port is taken: try it first."""
    if port and is_loopback(host):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), port))
    return bind_sockets(port, host)


@contextlib.asynccontextmanager
async def open_core(
    settings: Settings, options: ApiOptions, stop: asyncio.Event | None = None
) -> AsyncGenerator[Core | None]:
    """Everything that handlers share, over connections of its own; None when it is time to stop instead."""
    backend = DirectBackend(settings.redis_url, settings.database_url, name="taskq-api", patience=PATIENCE_S)
    pool = await open_pool(settings.database_url)
    try:
        broker = await _until_there(backend, stop or asyncio.Event())
        if broker is None:
            yield None
            return
        store = KeyStore(broker.redis, KEY_PREFIX)
        core = Core(
            client=Client(backend),
            reader=DirectReader(broker, pool),
            auth=Auth(store, broker.clock.now_ms, required=not options.no_auth),
            guard=Guard(
                options.host, allowed_hosts=options.allowed_hosts, trusted_origins=options.trusted_origins
            ),
            files=FileStore(settings.home / "files"),
        )
        try:
            yield core
        finally:
            await core.close()
    finally:
        await pool.close(timeout=1.0)
        await backend.close()


async def _until_there(backend: DirectBackend, stop: asyncio.Event) -> Broker | None:
    """The broker, however long Redis takes to come."""
    told = ""
    while not stop.is_set():
        try:
            return await backend.broker()
        except Unavailable as error:
            if str(error) != told:
                told = str(error)
                _log.warning("the API waits: %s", error)
        with contextlib.suppress(TimeoutError):
            _ = await asyncio.wait_for(stop.wait(), random.uniform(RETRY_S / 2, RETRY_S))
    return None


def _start(core: Core, sockets: Sequence[socket.socket]) -> HTTPServer:
    server = HTTPServer(
        make_app(core),
        max_header_size=HEADER_BYTES,
        max_body_size=SLACK,  # each route sets its own
        max_buffer_size=BUFFER_BYTES,
        idle_connection_timeout=IDLE_S,
        body_timeout=BODY_S,
    )
    server.add_sockets(sockets)
    return server


async def _drain(server: HTTPServer, core: Core, grace_s: float) -> None:
    server.stop()
    await core.drain(grace_s)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.close_all_connections(), 1.0)
