"""A whole API over real servers, on a thread of its own, and a client that speaks plain HTTP to it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import httpx

from services.api.main import ApiOptions, serve
from taskq_core import TaskQ
from taskq_core.access.scopes import Scope
from taskq_core.access.store import KeyStore
from taskq_core.broker.keys import KEY_PREFIX
from taskq_core.catalog import register
from taskq_core.config import Settings
from tests.support.history import fresh_database
from tests.support.reading import System, a_system
from tests.support.servers import RunningServers

CODE_VERSION = "v1"


def declare(app: TaskQ) -> None:
    """The tasks that every test may submit."""

    @app.task("image.resize", queue="images")
    async def resize(source: str, width: int = 100) -> dict[str, Any]:
        return {"source": source, "width": width}

    @app.task("demo.any", queue="demo")
    async def anything(value: Any = None) -> Any:
        return value

    del resize, anything


class Api:
    """One running API. `key` maps a scope to a token that has it alone."""

    def __init__(self, system: System, keys: dict[str, str], home: Path) -> None:
        self.system = system
        self.keys = keys
        self.home = home
        self.store = KeyStore(system.broker.redis, KEY_PREFIX)
        self.port = 0
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        self.http = httpx.Client(trust_env=False, timeout=30.0)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Something on the API's own loop: the broker, the reader and the key store belong to it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def call(
        self, method: str, path: str, *, key: str | None = "admin", headers: Any = None, **how: Any
    ) -> httpx.Response:
        """One request; `key` names a scope, None sends no key."""
        sent = dict(headers or {})
        if key is not None:
            sent.setdefault("Authorization", f"Bearer {self.keys.get(key, key)}")
        return self.http.request(method, self.url + path, headers=sent, **how)

    def post(self, body: Any, *, key: str | None = "admin", headers: Any = None) -> httpx.Response:
        """POST /api/tasks with a JSON body, or with the very bytes."""
        if isinstance(body, bytes):
            return self.call(
                "POST",
                "/api/tasks",
                key=key,
                headers={"Content-Type": "application/json", **(headers or {})},
                content=body,
            )
        return self.call("POST", "/api/tasks", key=key, headers=headers, json=body)

    def get(self, path: str, *, key: str | None = "admin", **how: Any) -> httpx.Response:
        """GET."""
        return self.call("GET", path, key=key, **how)

    def submit(self, name: str = "image.resize", **more: Any) -> str:
        """A new task's id."""
        answer = self.post({"name": name, "payload": {"source": "cat.jpg"}, **more})
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]


@contextlib.contextmanager
def running_api(
    servers: RunningServers, home: Path, options: Callable[[ApiOptions], ApiOptions] | None = None
) -> Generator[Api]:
    """An API in an empty system, until the end of the `with`."""
    made: list[Api] = []
    ready = threading.Event()
    failed: list[BaseException] = []
    url = fresh_database(servers.database_url)

    async def whole() -> None:
        async with a_system(servers, url) as system:
            keys = await _make_keys(system)
            await _register(system)
            api = Api(system, keys, home)
            made.append(api)
            settings = Settings(redis_url=servers.redis_url, database_url=url, home=home)
            own = ApiOptions(port=0, grace=2.0)

            def told(_host: str, port: int) -> None:
                api.port = port
                ready.set()

            await serve(settings, stop=api.stop, options=options(own) if options else own, ready=told)

    def main() -> None:
        try:
            asyncio.run(whole())
        except BaseException as error:  # noqa: BLE001
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=main, name="api")
    thread.start()
    ready.wait(30)
    try:
        if failed:
            raise failed[0]
        yield made[0]
    finally:
        for api in made:
            api.http.close()
            with contextlib.suppress(RuntimeError):
                api.loop.call_soon_threadsafe(api.stop.set)
        thread.join(30)
    if failed:
        raise failed[0]


async def _make_keys(system: System) -> dict[str, str]:
    store = KeyStore(system.broker.redis, KEY_PREFIX)
    return {scope.value: (await store.create(frozenset({scope}), label=scope.value)).token for scope in Scope}


async def _register(system: System) -> None:
    app = TaskQ()
    declare(app)
    await register(system.broker.redis, app.tasks.values(), CODE_VERSION, system.broker.clock.now_ms())
