"""The REST API as a caller meets it: a real server over a real Valkey and PostgreSQL."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from services.api import main
from services.api.endpoints.table import ROUTES
from services.api.main import ApiOptions, bind, check_options
from taskq_core.access import store
from taskq_core.broker.protocol import Claim, Op
from taskq_core.config import Settings
from taskq_core.errors import AlreadyRunning, ConfigError
from taskq_core.model.ids import new_id
from tests.support.api import Api, running_api
from tests.support.names import API_METRICS, FOREIGN_ORIGINS, SYSTEM_METRICS
from tests.support.servers import RunningServers, running_servers
from tests.support.wait import eventually_sync

UNKNOWN = new_id(1_790_000_000_000)
JSON = {"Content-Type": "application/json"}
RESIZE = {"name": "image.resize", "payload": {"source": "cat.jpg"}}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServers]:
    with running_servers(tmp_path_factory.mktemp("both")) as both:
        yield both


@pytest.fixture(scope="module")
def api(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(servers, tmp_path_factory.mktemp("home")) as running:
        yield running


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """The detail of a problem, which must be this one."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "code", "detail"}
    assert problem["status"] == status
    assert "\n" not in problem["detail"]
    return problem["detail"]


def take(api: Api, queue: str) -> Claim:
    """Claim one task."""

    async def one() -> Claim:
        await api.system.broker.ensure([queue])
        (claim,) = await api.system.take(queue=queue)
        return claim

    return api.run(one())


def finish(api: Api, queue: str, op: Op = Op.OK, body: str = '{"ok":true}') -> None:
    """Run the next task of a queue to its end."""
    claim = take(api, queue)
    api.run(api.system.settle([claim], op, body))


def talk(api: Api, *parts: bytes) -> bytes:
    """Send the very bytes; answers all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as line:
        try:
            for part in parts:
                line.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has answered and closed already
        answer = b""
        while True:
            try:
                piece = line.recv(65536)
            except ConnectionResetError:
                return answer
            if not piece:
                return answer
            answer += piece


def head(api: Api, method: str, path: str, *lines: str) -> bytes:
    """The head of a request, with a key."""
    first = [f"{method} {path} HTTP/1.1", f"Authorization: Bearer {api.keys['admin']}", *lines]
    return "\r\n".join([*first, "", ""]).encode()


# -- submitting ----------------------------------------------------------------------------------------------


def test_a_submitted_task_is_there_at_once(api: Api) -> None:
    answer = api.post(RESIZE)
    task = answer.json()
    assert answer.status_code == 202
    assert set(task) == {"id", "state", "name", "queue", "submitted_at"}
    assert (task["state"], task["name"], task["queue"]) == ("queued", "image.resize", "images")
    assert answer.headers["Location"] == f"/api/tasks/{task['id']}"
    view = api.get(answer.headers["Location"])
    assert view.status_code == 200
    assert view.json()["payload"] == {"source": "cat.jpg"}
    assert view.json()["submitted_at"] == task["submitted_at"]
    assert view.headers["Cache-Control"] == "no-store"
    (event,) = api.get(f"/api/tasks/{task['id']}/events").json()["events"]
    assert event["kind"] == "submitted"
    assert event["actor"].startswith("key:")
    assert api.get(f"/api/tasks/{task['id']}/attempts").json()["attempts"] == []


def test_all_options_reach_the_task(api: Api) -> None:
    options: dict[str, Any] = {
        "queue": "options",
        "priority": "high",
        "delay": 60,
        "max_attempts": 7,
        "backoff": {"base": 2, "factor": 3, "cap": 100, "jitter": 0.1},
        "timeout": 5,
        "unique_key": "only one",
        "metadata": {"user": 42},
        "result_ttl": 60,
    }
    task = api.get(f"/api/tasks/{api.submit(**options)}").json()
    assert (task["queue"], task["priority"], task["state"]) == ("options", "high", "scheduled")
    assert (task["max_attempts"], task["unique_key"], task["metadata"]) == (7, "only one", {"user": 42})
    assert task["due_at"] is not None


def test_numbers_come_back_byte_for_byte(api: Api) -> None:
    payload = b'{"value": [9007199254740993, 1.0, 1e5, -0.0, [], {}, 123456789012345678901234567890]}'
    answer = api.post(b'{"name": "demo.any", "queue": "bytes", "payload": ' + payload + b"}")
    assert answer.status_code == 202
    (stored,) = [api.run(api.system.broker.redis.hget(api.system.broker.keys.task(answer.json()["id"]), "d"))]
    assert stored == payload
    finish(api, "bytes", body=payload.decode())
    result = api.get(f"/api/tasks/{answer.json()['id']}/result")
    assert payload in result.content


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no body"),
        (b"{", "not JSON"),
        (b"nope", "not JSON"),
        (b'{"name": "demo.any", "payload": {"value": NaN}}', "NaN"),
        (b'{"name": "demo.any", "payload": {"value": Infinity}}', "Infinity"),
        (b'{"name": "demo.any", "payload": {"value": 1e400}}', "out of range"),
        (b'{"name": "demo.any", "payload": {"value": ' + b"9" * 5000 + b"}}", "integer"),
        (b'{"name": "demo.any", "payload": {"value": 1, "value": 2}}', "twice"),
        (b'{"name": "demo.any", "name": "demo.any", "payload": {}}', "twice"),
        (b'{"name": "demo.any", "payload": {"value": "\\u0000"}}', "U+0000"),
        (b'{"name": "demo.any", "payload": {"value": "\\ud800"}}', "surrogate"),
        (b'{"name": "demo.any", "payload": {"value": "\xff"}}', "UTF-8"),
        (b'{"name": "demo.any", "payload": {"value": ' + b"[" * 80 + b"]" * 80 + b"}}", "nested"),
        (b'{"name": "demo.any", "payload": {"value": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}", "nested"),
        (
            b'{"name": "demo.any", "payload": {"value": {'
            + b",".join(b'"%d":1' % n for n in range(10_001))
            + b"}}}",
            "keys",
        ),
    ],
)
def test_json_that_could_not_be_kept_is_refused(api: Api, body: bytes, why: str) -> None:
    answer = api.post(body)
    if body:
        assert why in refused(answer, 400, "invalid_json")
    else:
        assert why in refused(answer, 422, "invalid_option")


@pytest.mark.parametrize(
    ("body", "code", "why"),
    [
        ([], "invalid_option", "object"),
        ({}, "invalid_option", "name"),
        ({"name": 7}, "invalid_option", "name"),
        ({"name": "image.resise", "payload": {}}, "unknown_task", "'image.resize'"),
        ({"name": "os.system", "payload": {}}, "unknown_task", "os.system"),
        ({"name": "../../etc/passwd", "payload": {}}, "unknown_task", "registered"),
        ({"name": "__import__", "payload": {}}, "unknown_task", "registered"),
        ({"name": "image.resize"}, "invalid_payload", "source"),
        ({"name": "image.resize", "payload": None}, "invalid_payload", "object"),
        ({"name": "image.resize", "payload": []}, "invalid_payload", "object"),
        ({"name": "image.resize", "payload": {"source": 7}}, "invalid_payload", "source"),
        ({"name": "image.resize", "payload": {"source": "a", "widht": 7}}, "invalid_payload", "widht"),
        ({**RESIZE, "pirority": "high"}, "invalid_option", "'priority'"),
        ({**RESIZE, "priority": "urgent"}, "invalid_option", "priority"),
        ({**RESIZE, "metadata": "x"}, "invalid_option", "metadata"),
        ({**RESIZE, "metadata": {"x": "y" * 9000}}, "invalid_option", "metadata"),
        ({**RESIZE, "unique_key": "a\x1bb"}, "invalid_option", "unique_key"),
        ({**RESIZE, "unique_key": "a" * 201}, "invalid_option", "unique_key"),
        ({**RESIZE, "delay": -1}, "invalid_option", "delay"),
        ({**RESIZE, "delay": 1e18}, "invalid_option", "delay"),
        ({**RESIZE, "delay": "soon"}, "invalid_option", "delay"),
        ({**RESIZE, "delay": 1, "run_at": "2030-01-01T00:00:00Z"}, "invalid_option", "both"),
        ({**RESIZE, "run_at": "1970-01-01T00:00:00Z"}, "invalid_option", "run_at"),
        ({**RESIZE, "run_at": "9999-01-01T00:00:00Z"}, "invalid_option", "run_at"),
        ({**RESIZE, "run_at": "tomorrow"}, "invalid_option", "run_at"),
        ({**RESIZE, "max_attempts": 10**9}, "invalid_option", "max_attempts"),
        ({**RESIZE, "max_attempts": 0}, "invalid_option", "max_attempts"),
        ({**RESIZE, "timeout": 0}, "invalid_option", "timeout"),
        ({**RESIZE, "result_ttl": 10**9}, "invalid_option", "result_ttl"),
        ({**RESIZE, "backoff": {"base": 1e9}}, "invalid_option", ""),
        ({**RESIZE, "backoff": {"speed": 1}}, "invalid_option", "speed"),
    ],
)
def test_a_request_that_can_never_succeed_says_why(api: Api, body: Any, code: str, why: str) -> None:
    assert why in refused(api.post(body), 422, code)


@pytest.mark.parametrize(
    "queue", ["{0}", "a:b", "a*", "a\nb", "a" * 10_000, "🚀", "../a", "", "A", "-a", 7, "a\r\nFLUSHALL"]
)
def test_a_queue_name_can_forge_no_key(api: Api, queue: Any) -> None:
    assert "queue" in refused(api.post({**RESIZE, "queue": queue}), 422, "invalid_option")


@pytest.mark.parametrize(
    "media", [None, "text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
)
def test_a_body_that_is_not_called_json_is_refused(api: Api, media: str | None) -> None:
    headers = {} if media is None else {"Content-Type": media}
    answer = api.call("POST", "/api/tasks", headers=headers, content=json.dumps(RESIZE).encode())
    assert "application/json" in refused(answer, 415, "unsupported_media_type")


def test_a_compressed_body_is_not_unpacked(api: Api) -> None:
    body = gzip.compress(json.dumps(RESIZE).encode())
    answer = api.call("POST", "/api/tasks", headers={**JSON, "Content-Encoding": "gzip"}, content=body)
    refused(answer, 400, "invalid_json")


# -- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "media", "size"),
    [
        ("/api/tasks", "application/json", 300_000),
        ("/api/tasks", "application/json", 3_000_000),
        ("/api/tasks/batch", "application/json", 18 << 20),
        ("/api/uploads", "image/png", 34 << 20),
    ],
)
def test_too_large_a_body_is_refused(api: Api, path: str, media: str, size: int) -> None:
    start = head(api, "POST", path, "Host: localhost", f"Content-Type: {media}", f"Content-Length: {size}")
    answer = talk(api, start, *([b"x" * 65536] * 20 if size < 2_000_000 else [b"x" * 100]))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in answer


def test_a_payload_over_its_limit_is_refused(api: Api) -> None:
    body = {"name": "demo.any", "payload": {"value": "x" * (256 * 1024)}}
    refused(api.post(body), 413, "too_large")


def test_a_body_without_an_end_is_refused_early(api: Api) -> None:
    start = head(
        api,
        "POST",
        "/api/tasks",
        "Host: localhost",
        "Transfer-Encoding: chunked",
        "Content-Type: application/json",
    )
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    answer = talk(api, start, *[chunk] * 400)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_in_chunks_is_taken(api: Api) -> None:
    body = json.dumps(RESIZE).encode()
    pieces = iter([body[:7], body[7:]])
    answer = api.call("POST", "/api/tasks", headers=JSON, content=pieces)
    assert answer.status_code == 202


@pytest.mark.parametrize(
    "lines",
    [
        ["Host: localhost", "Host: evil.example"],
        ["Host: localhost", "Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Host: localhost", "X-A: b", " folded"],
        ["Host: localhost", *(f"X-{n}: {n}" for n in range(10_000))],
        ["Host: localhost", "Content-Length: 5", "Content-Length: 6"],
    ],
)
def test_requests_that_two_readers_could_read_differently_are_refused(api: Api, lines: list[str]) -> None:
    answer = talk(
        api, head(api, "POST", "/api/tasks", *lines, "Content-Type: application/json"), b"0\r\n\r\n"
    )
    assert b" 202 " not in answer
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))


# -- once only -----------------------------------------------------------------------------------------------


def test_the_same_idempotency_key_makes_one_task(api: Api) -> None:
    headers = {"Idempotency-Key": "order-1"}
    first = api.post(RESIZE, headers=headers)
    again = api.post(RESIZE, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    assert again.json()["deduplicated"] is True
    other = api.post({"name": "image.resize", "payload": {"source": "dog.jpg"}}, headers=headers)
    assert first.json()["id"] in refused(other, 409, "conflict")


def test_idempotency_keys_belong_to_their_api_key(api: Api) -> None:
    headers = {"Idempotency-Key": "order-2"}
    first = api.post(RESIZE, headers=headers)
    other = api.post(RESIZE, key="submit", headers=headers)
    assert (first.status_code, other.status_code) == (202, 202)
    assert first.json()["id"] != other.json()["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_a_bad_idempotency_key_is_refused(api: Api, key: str) -> None:
    assert "Idempotency-Key" in refused(
        api.post(RESIZE, headers={"Idempotency-Key": key}), 422, "invalid_option"
    )


def test_a_unique_key_gives_the_first_task_until_it_ends(api: Api) -> None:
    body = {**RESIZE, "queue": "unique", "unique_key": "cat"}
    first, second = api.post(body), api.post(body)
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json()["id"] == first.json()["id"]
    assert second.json()["deduplicated"] is True
    assert "deduplicated" not in first.json()
    finish(api, "unique")
    assert api.post(body).status_code == 202


# -- batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media", ["application/json", "application/x-ndjson"])
def test_a_batch_answers_each_element_in_its_place(api: Api, media: str) -> None:
    elements: list[dict[str, Any]] = [
        RESIZE,
        {"name": "nobody.knows", "payload": {}},
        {**RESIZE, "queue": "second"},
        {**RESIZE, "colour": "red"},
        {"name": "image.resize", "payload": {}},
    ]
    if media == "application/json":
        body = json.dumps({"tasks": elements}).encode()
    else:
        body = b"\n".join(json.dumps(one).encode() for one in elements) + b"\n\n"
    answer = api.call("POST", "/api/tasks/batch", headers={"Content-Type": media}, content=body)
    assert answer.status_code == 202
    told = answer.json()
    assert [one is None for one in told["ids"]] == [False, True, False, True, True]
    assert [(one["index"], one["code"]) for one in told["errors"]] == [
        (1, "unknown_task"),
        (3, "invalid_option"),
        (4, "invalid_payload"),
    ]
    assert api.get(f"/api/tasks/{told['ids'][2]}").json()["queue"] == "second"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[]", 422, "invalid_option"),
        (b'{"tasks": 7}', 422, "invalid_option"),
        (b'{"tasks": [], "more": 1}', 422, "invalid_option"),
        (b'{"tasks": [1], "tasks": [2]}', 400, "invalid_json"),
        (b'{"tasks": [}', 400, "invalid_json"),
        (b'{"tasks": [' + b"[" * 100_000 + b"]}", 400, "invalid_json"),
        (json.dumps({"tasks": [{}] * 10_001}).encode(), 413, "too_large"),
    ],
)
def test_a_batch_that_is_none_is_refused(api: Api, body: bytes, status: int, code: str) -> None:
    refused(api.call("POST", "/api/tasks/batch", headers=JSON, content=body), status, code)


def test_one_bad_element_spoils_no_other(api: Api) -> None:
    body = b'{"tasks": [{"name": "demo.any", "payload": {"value": "\\u0000"}}, {"name": "demo.any"}]}'
    told = api.call("POST", "/api/tasks/batch", headers=JSON, content=body).json()
    assert [one["code"] for one in told["errors"]] == ["invalid_json"]
    assert told["ids"][1] is not None


@pytest.mark.slow
def test_ten_thousand_tasks_are_one_batch(api: Api) -> None:
    body = "\n".join(json.dumps({**RESIZE, "queue": "many"}) for _ in range(10_000)).encode()
    headers = {"Content-Type": "application/x-ndjson"}
    told = api.call("POST", "/api/tasks/batch", headers=headers, content=body).json()
    assert len(set(told["ids"])) == 10_000
    assert told["errors"] == []


# -- looking -------------------------------------------------------------------------------------------------


def test_pages_follow_the_cursor(api: Api) -> None:
    made = [api.submit(queue="paged") for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        page = api.get("/api/tasks", params={"queue": "paged", "limit": 2, **more}).json()
        seen += [task["id"] for task in page["tasks"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_lists_are_narrowed_by_exact_values(api: Api) -> None:
    one = api.submit(queue="narrow")
    two = api.submit("demo.any", queue="narrow", payload={}, delay=60)

    def ids(**wanted: str) -> list[str]:
        return [
            task["id"] for task in api.get("/api/tasks", params={"queue": "narrow", **wanted}).json()["tasks"]
        ]

    assert ids() == [two, one]
    assert ids(state="queued") == [one]
    assert ids(name="demo.any") == [two]
    assert ids(name="demo.*") == []
    assert ids(name="%") == []


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("limit=1000000000", "limit"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=1e99", "limit"),
        ("limit=1&limit=2", "once"),
        ("state=happy", "state"),
        ("cursor=nonsense", "cursor"),
        ("cursor=" + "A" * 5000, "cursor"),
        ("offset=5", "unknown parameter 'offset'"),
        ("sort=name;drop", "unknown parameter 'sort'"),
        ("lmit=5", "'limit'"),
        ("at=2020-01-01T00:00:00Z", "unknown parameter"),
        ("filter=state:dead", "unknown parameter"),
        ("state=%ff", "UTF-8"),
    ],
)
def test_parameters_are_bounded_and_known(api: Api, query: str, why: str) -> None:
    assert why in refused(api.get(f"/api/tasks?{query}"), 422, "invalid_option")


def test_other_routes_take_no_parameters(api: Api) -> None:
    refused(api.get("/api/overview?x=1"), 422, "invalid_option")
    refused(api.get(f"/api/tasks/{UNKNOWN}?x=1"), 422, "invalid_option")


@pytest.mark.parametrize("id", ["nope", "..", "%2e%2e%2f", "1" * 5000, UNKNOWN[:-1], "%00", "%ff"])
@pytest.mark.parametrize("rest", ["", "/events", "/attempts", "/result"])
def test_what_is_no_id_names_no_task(api: Api, id: str, rest: str) -> None:
    answer = api.get(f"/api/tasks/{id}{rest}")
    assert answer.status_code in {404, 422, 400}
    assert answer.json()["code"] in {"not_found", "invalid_option"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/api/tasks/{UNKNOWN}"),
        ("GET", f"/api/tasks/{UNKNOWN}/events"),
        ("GET", f"/api/tasks/{UNKNOWN}/result"),
        ("GET", f"/api/tasks/{UNKNOWN}/result?wait=1"),
        ("POST", f"/api/tasks/{UNKNOWN}/cancel"),
        ("POST", f"/api/tasks/{UNKNOWN}/retry"),
    ],
)
def test_an_unknown_task_is_not_found(api: Api, method: str, path: str) -> None:
    answer = api.call(method, path)
    assert answer.status_code in {404, 503}  # the history may not have reached this moment yet
    assert answer.json()["code"] in {"not_found", "history_behind"}


def test_the_views_of_the_system(api: Api) -> None:
    api.submit()
    overview = api.get("/api/overview").json()
    assert {"verdict", "queues", "workers", "rates", "ledger", "relay"} <= set(overview)
    assert overview["ledger"]["unexplained"] == 0
    assert "images" in {queue["name"] for queue in api.get("/api/queues").json()["queues"]}
    assert api.get("/api/workers").json()["workers"] == []
    catalog = {entry["name"]: entry for entry in api.get("/api/catalog").json()["catalog"]}
    assert catalog["image.resize"]["schema"]["required"] == ["source"]


@pytest.mark.parametrize(
    "path",
    ["/openapi.json", "/docs", "/api/stats", "/api/failures", "/api/journal", "/api/schedules", "/nope"],
)
def test_what_is_not_there_is_absent(api: Api, path: str) -> None:
    refused(api.get(path), 404, "not_found")


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "BREW"])
def test_other_methods_are_refused(api: Api, method: str) -> None:
    answer = api.call(method, "/api/tasks")
    refused(answer, 405, "method_not_allowed")
    assert "GET, POST" in answer.headers["Allow"]


def test_head_is_get_without_the_body(api: Api) -> None:
    answer = api.call("HEAD", "/api/overview")
    assert (answer.status_code, answer.content) == (200, b"")


# -- results and actions -------------------------------------------------------------------------------------


def test_a_result_is_waited_for(api: Api) -> None:
    task_id = api.submit(queue="waited")
    early = api.get(f"/api/tasks/{task_id}/result")
    assert (early.status_code, early.json()["state"], early.json()["result"]) == (202, "queued", None)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(api.get, f"/api/tasks/{task_id}/result?wait=20")
        finish(api, "waited", body='{"n":9007199254740993}')
        answer = late.result()
    assert answer.status_code == 200
    assert answer.json() == {
        "id": task_id,
        "state": "succeeded",
        "result": {"n": 9007199254740993},
        "error": None,
    }
    assert api.get(f"/api/tasks/{task_id}/result").json() == answer.json()


def test_a_wait_that_is_over_says_where_the_task_stands(api: Api) -> None:
    answer = api.get(f"/api/tasks/{api.submit(queue='slow')}/result?wait=0.1")
    assert (answer.status_code, answer.json()["state"]) == (202, "queued")


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "1e9", "long"])
def test_waits_are_bounded(api: Api, wait: str) -> None:
    assert "wait" in refused(api.get(f"/api/tasks/{UNKNOWN}/result?wait={wait}"), 422, "invalid_option")


def test_a_dead_task_tells_its_error_and_lives_again(api: Api) -> None:
    task_id = api.submit(queue="deadly", max_attempts=1)
    error = msgspec.json.encode({"type": "ValueError", "message": "no", "fingerprint": "f"}).decode()
    finish(api, "deadly", Op.FAIL, error)
    told = api.get(f"/api/tasks/{task_id}/result?wait=5").json()
    assert (told["state"], told["error"]["type"]) == ("dead", "ValueError")
    answer = api.call("POST", f"/api/tasks/{task_id}/retry", json={"payload": {"source": 9}})
    refused(answer, 422, "invalid_payload")
    body = {"payload": {"source": "dog.jpg"}, "reason": "fixed"}
    answer = api.call("POST", f"/api/tasks/{task_id}/retry", json=body)
    assert (answer.status_code, answer.json()) == (200, {"id": task_id, "state": "queued"})
    assert api.get(f"/api/tasks/{task_id}").json()["payload"] == {"source": "dog.jpg"}
    refused(api.call("POST", f"/api/tasks/{task_id}/retry"), 409, "conflict")
    events = api.get(f"/api/tasks/{task_id}/events").json()["events"]
    assert [event["reason"] for event in events if event["kind"] == "retried"] == ["fixed"]


def test_a_waiting_task_is_cancelled(api: Api) -> None:
    task_id = api.submit(queue="cancelled")
    answer = api.call("POST", f"/api/tasks/{task_id}/cancel", json={"reason": "changed my mind"})
    assert (answer.status_code, answer.json()) == (200, {"id": task_id, "state": "cancelled"})
    assert api.get(f"/api/tasks/{task_id}/result?wait=5").json()["state"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[]", 422, "invalid_option"),
        (b"{", 400, "invalid_json"),
        (b'{"raeson": "x"}', 422, "invalid_option"),
        (b'{"reason": 7}', 422, "invalid_option"),
        (b'{"reason": "' + b"x" * 501 + b'"}', 422, "invalid_option"),
        (b'{"reason": "\\u0000"}', 400, "invalid_json"),
    ],
)
def test_the_body_of_an_action_is_checked(api: Api, body: bytes, status: int, code: str) -> None:
    answer = api.call("POST", f"/api/tasks/{api.submit(queue='acted')}/cancel", headers=JSON, content=body)
    refused(answer, status, code)


# -- keys ----------------------------------------------------------------------------------------------------


def test_every_refusal_of_a_key_is_the_same(api: Api) -> None:
    good = api.keys["admin"]
    headers: list[Any] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer x"},
        {"Authorization": f"Basic {good}"},
        {"Authorization": good},
        {"Authorization": f"Bearer {good[:-1]}"},
        {"Authorization": f"Bearer {good} {good}"},
        {"Authorization": "Bearer tq_" + "0" * 12 + "_" + "A" * 43},
        {"Authorization": "Bearer " + "x" * 9000},
        [("Authorization", f"Bearer {good}"), ("Authorization", f"Bearer {good}")],
    ]
    answers = [api.http.get(f"{api.url}/api/overview", headers=one) for one in headers]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert all(answer.headers["WWW-Authenticate"].startswith("Bearer") for answer in answers)


@pytest.mark.parametrize("name", ["token", "access_token", "api_key", "key", "Authorization"])
def test_a_key_in_an_address_is_refused(api: Api, name: str) -> None:
    refused(api.get("/api/overview", params={name: api.keys["admin"]}), 401, "unauthenticated")
    refused(api.get("/health", key=None, params={name: api.keys["admin"]}), 401, "unauthenticated")


def test_a_revoked_and_an_expired_key_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "REMEMBERED_S", 0.1)

    async def expired() -> str:
        (scope,) = [key for key in await api.store.list() if key.label == "read"]
        now = api.system.broker.clock.now_ms()
        return (await api.store.create(scope.scopes, label="old", now_ms=now, expires_at=now)).token

    refused(api.get("/api/overview", key=api.run(expired())), 401, "unauthenticated")

    async def short_lived() -> tuple[str, str]:
        (scope,) = [key for key in await api.store.list() if key.label == "read"]
        new = await api.store.create(scope.scopes, label="revoked")
        return new.key.id, new.token

    key_id, token = api.run(short_lived())
    assert api.get("/api/overview", key=token).status_code == 200
    api.run(api.store.revoke(key_id))
    eventually_sync(lambda: api.get("/api/overview", key=token).status_code == 401, "the key to be refused")


SCOPED = [
    ("submit", "POST", "/api/tasks"),
    ("submit", "POST", "/api/tasks/batch"),
    ("submit", "POST", "/api/uploads"),
    ("operate", "POST", f"/api/tasks/{UNKNOWN}/cancel"),
    ("operate", "POST", f"/api/tasks/{UNKNOWN}/retry"),
    ("read", "GET", "/api/tasks"),
    ("read", "GET", f"/api/tasks/{UNKNOWN}"),
    ("read", "GET", f"/api/tasks/{UNKNOWN}/events"),
    ("read", "GET", f"/api/tasks/{UNKNOWN}/attempts"),
    ("read", "GET", f"/api/tasks/{UNKNOWN}/result"),
    ("read", "GET", "/api/overview"),
    ("read", "GET", "/api/queues"),
    ("read", "GET", "/api/workers"),
    ("read", "GET", "/api/catalog"),
    ("read", "GET", "/api/files/" + "0" * 64),
    ("read", "GET", "/metrics"),
]


@pytest.mark.parametrize(("scope", "method", "path"), SCOPED)
def test_a_key_does_what_its_scope_says(api: Api, scope: str, method: str, path: str) -> None:
    refused(api.call(method, path, key=None), 401, "unauthenticated")
    for held in ("submit", "read", "operate"):
        answer = api.call(method, path, key=held)
        if held == scope:
            assert answer.status_code not in {401, 403}
        else:
            assert repr(scope) in refused(answer, 403, "forbidden")
    assert api.call(method, path, key="admin").status_code not in {401, 403}


def test_every_route_is_among_the_scoped_ones() -> None:
    covered = {(method, path.replace(UNKNOWN, "{id}")) for _, method, path in SCOPED}
    assert {(route.method, route.path) for route in ROUTES if route.scope is not None} <= covered


# -- browsers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        *({"Origin": origin} for origin in FOREIGN_ORIGINS),
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_change_nothing(api: Api, headers: dict[str, str]) -> None:
    refused(api.post(RESIZE, headers=headers), 403, "forbidden")


def test_the_own_site_may(api: Api) -> None:
    headers = {"Origin": api.url, "Sec-Fetch-Site": "same-origin"}
    assert api.post(RESIZE, headers=headers).status_code == 202


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[::2]", ""]
)
def test_foreign_host_names_are_not_served(api: Api, host: str) -> None:
    for path in ("/", "/api/tasks", "/health"):
        answer = talk(api, head(api, "GET", path, f"Host: {host}", "Connection: close"))
        assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 "))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_names_of_this_machine_are_served(api: Api, host: str) -> None:
    answer = talk(api, head(api, "GET", "/", f"Host: {host}", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_nothing_of_a_request_gets_into_the_status_line_or_a_header(api: Api) -> None:
    answer = talk(
        api, head(api, "GET", "/api/tasks/%0d%0aX-Evil:%201", "Host: localhost", "Connection: close")
    )
    assert b"\r\nX-Evil" not in answer
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")


def test_the_page_asks_nothing_of_other_sites(api: Api) -> None:
    answer = api.get("/", key=None)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "light-dark(" in answer.text
    assert "http" not in answer.text.replace(api.url, "")
    assert "<script" not in answer.text


# -- files ---------------------------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 300_000


@pytest.mark.parametrize(
    ("content", "kind", "place"),
    [
        (PNG, "image/png", "inline"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 20, "image/jpeg", "inline"),
        (b"GIF89a" + b"\0" * 20, "image/gif", "inline"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp", "inline"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>", "application/octet-stream", "attachment"),
        (b"<html>", "application/octet-stream", "attachment"),
    ],
)
def test_an_upload_comes_back_as_what_it_is(api: Api, content: bytes, kind: str, place: str) -> None:
    stored = api.call("POST", "/api/uploads", headers={"Content-Type": "image/png"}, content=content)
    assert stored.status_code == 201, stored.text
    told = stored.json()
    assert (told["bytes"], told["source"]) == (len(content), f"upload:{told['sha256']}")
    back = api.get(stored.headers["Location"])
    assert back.content == content
    assert back.headers["Content-Type"] == kind
    assert back.headers["X-Content-Type-Options"] == "nosniff"
    assert back.headers["Content-Disposition"].startswith(place)
    again = api.get(stored.headers["Location"], headers={"If-None-Match": back.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    measured = api.call("HEAD", stored.headers["Location"])
    assert measured.headers["Content-Length"] == str(len(content))


def test_a_form_and_an_empty_body_are_no_upload(api: Api) -> None:
    refused(api.call("POST", "/api/uploads", files={"f": b"x"}), 415, "unsupported_media_type")
    refused(api.call("POST", "/api/uploads", content=b""), 422, "invalid_option")
    refused(api.get("/api/uploads"), 405, "method_not_allowed")


@pytest.mark.parametrize("name", ["..", "%2e%2e%2fup.json", "0" * 63, "A" * 64, "0" * 64, "incoming"])
def test_only_stored_files_are_given(api: Api, name: str) -> None:
    refused(api.get(f"/api/files/{name}"), 404, "not_found")


def test_an_upload_that_breaks_off_leaves_nothing(api: Api) -> None:
    start = head(
        api, "POST", "/api/uploads", "Host: localhost", "Content-Type: image/png", "Content-Length: 1000"
    )
    with socket.create_connection(("127.0.0.1", api.port)) as line:
        line.sendall(start + b"x" * 500)
        folder = api.home / "files" / "incoming"
        eventually_sync(lambda: any(folder.glob("*.part")), "the upload to begin")
    eventually_sync(lambda: not any(folder.glob("*.part")), "the half file to go")


# -- health and metrics --------------------------------------------------------------------------------------


def test_health_says_one_word_to_strangers(api: Api) -> None:
    assert set(api.get("/health", key=None).json()) == {"status"}
    assert api.get("/health", key=None).status_code == 200
    assert api.get("/health/live", key=None).json() == {"status": "ok"}
    assert api.get("/health/ready", key=None).status_code == 200
    assert "reasons" in api.get("/health").json()["checks"]
    refused(api.get("/health", key="tq_nonsense"), 401, "unauthenticated")


NAMES = {*SYSTEM_METRICS, *API_METRICS}


def test_metrics_carry_every_name(api: Api) -> None:
    api.submit()
    api.get("/" + "x" * 50)
    text = api.get("/metrics").text
    assert {name for name in NAMES if f"# TYPE {name} " in text} == NAMES
    assert 'taskq_http_request_seconds_count{route="/api/tasks",method="POST",status="202"}' in text
    assert "xxxxx" not in text
    assert UNKNOWN not in text


# -- servers that are away -----------------------------------------------------------------------------------


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[tuple[RunningServers, Api]]:
    with running_servers(tmp_path / "servers") as servers, running_api(servers, tmp_path / "home") as api:
        yield servers, api


def timed(call: Any) -> tuple[float, httpx.Response]:
    started = time.monotonic()
    answer = call()
    return time.monotonic() - started, answer


@pytest.mark.slow
def test_without_redis_the_api_says_so_within_two_seconds(fragile: tuple[RunningServers, Api]) -> None:
    servers, api = fragile
    task_id = api.submit()
    servers.redis.pause()
    try:
        seconds, answer = timed(lambda: api.post(RESIZE))
        refused(answer, 503, "unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert seconds < 2.5
        seconds, answer = timed(lambda: api.get("/health", key=None))
        assert (answer.status_code, answer.json()) == (503, {"status": "down"})
        assert seconds < 4.0
        assert api.get("/health/live", key=None).status_code == 200
        assert api.get("/health/ready", key=None).status_code == 503
        assert api.get("/api/overview").json()["verdict"]["level"] == "down"
    finally:
        servers.redis.resume()
    eventually_sync(lambda: api.post(RESIZE).status_code == 202, "tasks to be taken again")
    assert api.get(f"/api/tasks/{task_id}").status_code == 200


@pytest.mark.slow
def test_without_postgres_tasks_are_taken_and_seen(fragile: tuple[RunningServers, Api]) -> None:
    servers, api = fragile
    servers.postgres.pause()
    try:
        seconds, answer = timed(lambda: api.post(RESIZE))
        assert (answer.status_code, seconds < 2.0) == (202, True)
        assert api.get(answer.headers["Location"]).status_code == 200
        assert api.get("/health", key=None).json() == {"status": "degraded"}
    finally:
        servers.postgres.resume()


def test_a_full_redis_takes_nothing_new(fragile: tuple[RunningServers, Api]) -> None:
    _, api = fragile
    redis = api.system.broker.redis
    before = api.run(redis.config_get("maxmemory"))["maxmemory"]
    api.run(redis.config_set("maxmemory", 1))
    try:
        answer = api.post(RESIZE)
        refused(answer, 503, "full")
        assert answer.headers["Retry-After"] == "5"
        assert api.get("/api/overview").status_code == 200
    finally:
        api.run(redis.config_set("maxmemory", before))
    assert api.post(RESIZE).status_code == 202


def test_who_speaks_too_slowly_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "BODY_S", 0.2)
    monkeypatch.setattr(main, "IDLE_S", 0.2)
    with running_servers(tmp_path / "servers") as servers, running_api(servers, tmp_path / "home") as api:
        lines = ("Host: localhost", "Content-Type: application/json", "Content-Length: 100")
        assert talk(api, head(api, "POST", "/api/tasks", *lines), b'{"name":') == b""
        assert talk(api, b"GET / HTTP/1.1\r\nHost: local") == b""


# -- the process ---------------------------------------------------------------------------------------------


def test_a_drain_answers_whoever_waits(fragile: tuple[RunningServers, Api]) -> None:
    _, api = fragile
    task_id = api.submit()
    answers: list[httpx.Response] = []
    url, headers = (
        f"{api.url}/api/tasks/{task_id}/result?wait=50",
        {"Authorization": f"Bearer {api.keys['read']}"},
    )
    waiter = threading.Thread(
        target=lambda: answers.append(httpx.get(url, headers=headers, trust_env=False, timeout=60))
    )
    waiter.start()

    def waits() -> bool:
        channels = api.run(api.system.broker.redis.hget(api.system.broker.keys.task(task_id), "ch"))
        return bool(channels)

    eventually_sync(waits, "the wait to have begun")
    api.loop.call_soon_threadsafe(api.stop.set)
    waiter.join(20)
    assert [answer.status_code for answer in answers] == [503]


@contextmanager
def stopping(process: subprocess.Popen[bytes]) -> Generator[None]:
    """A test that fails leaves no process."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()


def test_the_process_says_where_it_listens_and_ends_cleanly(
    servers: RunningServers, tmp_path: Path, api: Api
) -> None:
    code = (
        "import sys; from pathlib import Path; from taskq_core.config import Settings;"
        "from services.api.role import run_api;"
        "sys.exit(run_api(Settings(redis_url=sys.argv[1], database_url=sys.argv[2], home=Path(sys.argv[3])),"
        " port=0))"
    )
    command = [sys.executable, "-c", code, servers.redis_url, servers.database_url, str(tmp_path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        stopping(process),
    ):
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert line["ready"] == "api"
        if sys.platform == "linux":
            assert Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"taskq api")
        answer = api.http.post(
            f"http://{line['host']}:{line['port']}/api/tasks",
            json=RESIZE,
            headers={"Authorization": f"Bearer {api.keys['submit']}"},
        )
        assert answer.status_code == 202
        process.terminate()
        _, told = process.communicate(timeout=20)
    assert process.returncode == 0
    for entry in told.decode().splitlines():
        assert json.loads(entry)["role"] == "api"
        assert api.keys["submit"] not in entry


def test_without_keys_everyone_here_is_an_administrator(tmp_path: Path) -> None:
    with (
        running_servers(tmp_path / "servers") as servers,
        running_api(
            servers, tmp_path / "home", lambda own: msgspec.structs.replace(own, no_auth=True)
        ) as api,
    ):
        assert api.post(RESIZE, key=None).status_code == 202
        assert "checks" in api.get("/health", key=None).json()
        refused(api.post(RESIZE, key=None, headers={"Origin": "https://evil.example"}), 403, "forbidden")


def test_what_must_not_be_served_is_refused_at_the_start() -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1", database_url="postgresql:///x")
    for host in ("0.0.0.0", "::", "192.0.2.1", "tasks.example"):
        with pytest.raises(ConfigError, match="--no-auth"):
            check_options(settings, ApiOptions(host=host, no_auth=True))
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        check_options(settings, ApiOptions(host=host, no_auth=True))
    with pytest.raises(ConfigError, match="TASKQ_DATABASE_URL"):
        check_options(Settings(redis_url="redis://127.0.0.1:1"), ApiOptions())


def test_a_taken_port_is_a_clear_message() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AlreadyRunning, match=f"port {port} .*--port"):
            bind("127.0.0.1", port)
