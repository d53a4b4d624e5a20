"""The servers that the protocol is held to: the embedded Valkey and Debian's Redis 7.0."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskq_core.embedded.find import find_valkey
from tests.support.servers import ServerHandle, start_redis


@pytest.fixture(scope="session", params=["valkey", "redis"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerHandle]:
    program: str | Path = find_valkey().path if request.param == "valkey" else "redis-server"
    handle = start_redis(tmp_path_factory.mktemp(request.param), program=program)
    yield handle
    handle.stop()
