"""The embedded Valkey (or Redis): configuration, start, readiness, stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from urllib.parse import quote

from taskq_core.embedded.find import FoundServer, find_valkey
from taskq_core.embedded.folder import DataFolder, write_private
from taskq_core.embedded.memory import memory_limit
from taskq_core.embedded.options import ServerOptions
from taskq_core.embedded.ports import free_port, socket_fits
from taskq_core.embedded.process import Child
from taskq_core.errors import ServerMissing

_ANSWER_SECONDS = 2.0
# The wheel's server uses the C library's allocator. A function call keeps thousands of small objects until
# its end and frees them together; with glibc's defaults a third of the server's time goes into sorting
# them. Larger caches and a heap that is not given back at once make it 1.7 times as fast. Other C
# libraries ignore this variable.
_ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=65535:glibc.malloc.top_pad=16777216"
    ":glibc.malloc.trim_threshold=268435456:glibc.malloc.mmap_threshold=33554432"
}
_POLL = 0.01


class Valkey:
    """One Valkey over a data folder that the caller holds."""

    label = "Valkey"

    def __init__(
        self, folder: DataFolder, options: ServerOptions, program: FoundServer | None = None
    ) -> None:
        """With `program`, that one instead of the first that `find_valkey` knows."""
        self._folder = folder
        self._options = options
        self._socket = folder.run / "valkey.sock"
        self._port = 0
        self._password = ""
        self._program = program
        self._server: FoundServer | None = None
        # SIGTERM: Valkey writes its log to disk and leaves.
        self.child = Child("valkey", folder.path, stop_signal=signal.SIGTERM)

    @property
    def url(self) -> str:
        """Where it answers; the same over restarts."""
        if self._port:
            return f"redis://:{quote(self._password, safe='')}@127.0.0.1:{self._port}/0"
        return f"unix://{quote(str(self._socket))}?db=0"

    @property
    def server(self) -> FoundServer | None:
        """The program in use, None before the first start."""
        return self._server

    async def start(self) -> None:
        """Start it and wait until it answers, data loaded; raises `ServerMissing` or `DataFolderError`."""
        if self._server is None:
            server = self._program or await asyncio.to_thread(find_valkey)
            self._folder.note_valkey(server)
            self._password = self._folder.secrets().valkey
            if self._options.tcp or not socket_fits(self._socket):
                self._port = free_port()
            self._server = server
        config = self._folder.valkey / "valkey.conf"
        write_private(config, self._config().encode())
        await self.child.start([str(self._server.path), str(config)], environment=_ALLOCATOR)
        await self._ready()

    async def stop(self) -> None:
        """Stop it cleanly; killed if it takes longer than the options allow."""
        await self.child.stop(self._options.stop_timeout)

    def _config(self) -> str:
        settings = {
            "dir": _quoted(self._folder.valkey),
            "appendonly": "yes",
            "appendfsync": self._options.appendfsync,
            "aof-load-truncated": "yes",  # the tail of a crash: what was never acknowledged as written
            "save": '""',
            "auto-aof-rewrite-min-size": "256mb",  # below that a rewrite costs more than the load it saves
            "maxmemory": str(self._options.maxmemory or memory_limit()),
            "maxmemory-policy": "noeviction",  # evicting a key would lose a task
            "daemonize": "no",
            "databases": "16",
            "always-show-logo": "no",
            "tcp-keepalive": "60",
            **(self._tcp() if self._port else self._unix()),
            **self._options.valkey_settings,
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def _tcp(self) -> dict[str, str]:
        return {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "protected-mode": "yes",
            "requirepass": self._password,
        }

    def _unix(self) -> dict[str, str]:
        return {"port": "0", "unixsocket": _quoted(self._socket), "unixsocketperm": "700"}

    async def _ready(self) -> None:
        deadline = time.monotonic() + self._options.start_timeout
        while time.monotonic() < deadline:
            if not self.child.alive:
                break
            with contextlib.suppress(OSError, TimeoutError):
                if await asyncio.wait_for(self._answers(), _ANSWER_SECONDS):
                    return
            await asyncio.sleep(_POLL)
        reason = self.child.last_words()
        self.child.kill()
        raise ServerMissing(f"Valkey did not start: {reason} (all of it: {self.child.log})")

    async def _answers(self) -> bool:
        """Whether it answers PING with PONG; while it loads its data it answers LOADING instead."""
        reader, writer = await (
            asyncio.open_connection("127.0.0.1", self._port)
            if self._port
            else asyncio.open_unix_connection(self._socket)
        )
        try:
            if self._port:
                writer.write(f"AUTH {self._password}\r\n".encode())
                await reader.readline()
            writer.write(b"PING\r\n")
            return (await reader.readline()).startswith(b"+PONG")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _quoted(path: Path) -> str:
    """A path as one word of the configuration file."""
    text = os.fspath(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
