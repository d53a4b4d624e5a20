"""Starts that must fail: one line that names the fault and the way out, exit code 2, nothing left running."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.running import Up, taskq
from tests.support.servers import start_redis

type StartUp = Callable[..., Up]


def refused(data: Path, *flags: str, env: dict[str, str] | None = None) -> str:
    """The message of a start that fails."""
    port = () if "--port" in flags else ("--port", "0")
    done = taskq("up", "--data", str(data), *port, *flags, env=env, cwd=data.parent)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stdout == ""
    *_, line = done.stderr.splitlines()
    assert line.startswith("taskq: ")
    assert "Traceback" not in done.stderr
    return line


def test_a_taken_port_is_named_with_the_flag(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refused(tmp_path / "data", "--port", port)
    assert port in message
    assert "--port" in message


def test_a_second_up_on_one_folder(shared: Up) -> None:
    message = refused(shared.data)
    assert str(shared.pid) in message
    assert "--data" in message
    assert shared.get("/health")["status"] == "ok", "the first is unharmed"
    assert json.loads((shared.data / "up.json").read_text())["pid"] == shared.pid


def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    data = tmp_path / "thesis"
    data.mkdir()
    (data / "chapter1.txt").write_text("It was a dark and stormy night")
    assert "no taskq data folder" in refused(data)
    assert [path.name for path in data.iterdir()] == ["chapter1.txt"]


def test_a_newer_data_format(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "format.json").write_text('{"format": 99, "created_at": "2030-01-01T00:00:00Z"}')
    assert "newer" in refused(data)


def test_no_auth_beyond_loopback(tmp_path: Path) -> None:
    assert "--no-auth" in refused(tmp_path / "data", "--no-auth", "--host", "0.0.0.0")


def test_an_unknown_setting(tmp_path: Path) -> None:
    assert "TASKQ_LEASE" in refused(tmp_path / "data", env={"TASKQ_LEAES": "3"})


@pytest.mark.slow
def test_a_redis_that_would_drop_tasks(tmp_path: Path) -> None:
    redis = start_redis(tmp_path / "redis", settings={"maxmemory-policy": "allkeys-lru"})
    try:
        message = refused(tmp_path / "data", env={"TASKQ_REDIS_URL": redis.url})
    finally:
        redis.stop()
    assert "noeviction" in message


@pytest.mark.slow
def test_a_redis_that_is_too_old(tmp_path: Path) -> None:
    with old_redis() as url:
        message = refused(tmp_path / "data", env={"TASKQ_REDIS_URL": url})
    assert "6.2" in message
    assert "7.0" in message


@contextmanager
def old_redis() -> Generator[str]:
    """What a server of version 6.2 says to INFO; none is packaged any more to be started here."""
    text = b"# Server\r\nredis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server, text), daemon=True).start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def _serve(server: socket.socket, info: bytes) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            while asked := connection.recv(4096):
                for _ in range(max(1, asked.count(b"*"))):
                    reply = b"$%d\r\n%s\r\n" % (len(info), info) if b"INFO" in asked else b"+OK\r\n"
                    connection.sendall(reply)


@pytest.mark.slow
def test_servers_that_are_away_are_named(tmp_path: Path) -> None:
    done = taskq(
        "up",
        "--data",
        str(tmp_path / "data"),
        "--port",
        "0",
        env={"TASKQ_REDIS_URL": "redis://127.0.0.1:1/0"},
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "Redis does not answer" in done.stderr


@pytest.mark.slow
def test_a_warm_start_is_quick(start_up: StartUp) -> None:
    up = start_up()
    assert up.stop(signal.SIGTERM) == 0
    up.start()
    assert up.get("/health")["status"] == "ok"
    assert up.seconds < 12, "3 s on a quiet machine; tests share theirs"
