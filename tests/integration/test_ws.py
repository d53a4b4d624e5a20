"""The WebSocket as a client meets it: live events over real servers, and everything that bounds a client."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from services.api import subscriptions, ws
from taskq_core.access import store
from taskq_core.access.scopes import Scope
from tests.support.api import Api, running_api
from tests.support.loop import in_loop
from tests.support.names import FOREIGN_ORIGINS
from tests.support.servers import RunningServers, running_servers
from tests.support.wait import eventually_sync

LONG_S = 15.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServers]:
    with running_servers(tmp_path_factory.mktemp("both")) as both:
        yield both


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Api]:
    """An API for one test alone."""
    with running_servers(tmp_path / "servers") as both, running_api(both, tmp_path / "home") as running:
        yield running


@pytest.fixture(scope="module")
def api(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(servers, tmp_path_factory.mktemp("home")) as running:
        yield running


class Client:
    """One socket; everything it hears is kept in order."""

    def __init__(self, line: WebSocketClientConnection) -> None:
        self.line = line
        self.heard: list[dict[str, Any]] = []
        self._ended = False

    async def say(self, **message: Any) -> None:
        await self.line.write_message(json.dumps(message))

    async def hear(self, *, kind: str | None = None, id: str | None = None) -> dict[str, Any]:
        """The next message, of this kind and subscription if given; others are passed over."""
        async with asyncio.timeout(LONG_S):
            while True:
                text = await self.line.read_message()
                assert text is not None, f"closed with {self.line.close_code} after {self.heard[-3:]}"
                message = json.loads(text)
                self.heard.append(message)
                if kind in {None, message["type"]} and id in {None, message["id"]}:
                    return message

    async def events(self, id: str, count: int) -> list[dict[str, Any]]:
        """The next `count` events of a subscription."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found += (await self.hear(kind="events", id=id))["events"]
        return found

    async def closed(self) -> int | None:
        """The code with which the server closed."""
        async with asyncio.timeout(LONG_S):
            while not self._ended:
                self._ended = await self.line.read_message() is None
        return self.line.close_code


async def connect(api: Api, *, key: str | None = None, path: str = "/ws", **headers: str) -> Client:
    """A socket; `key` sends a first message with the token of this scope."""
    request = HTTPRequest(
        api.url.replace("http", "ws") + path, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    client = Client(await websocket_connect(request))
    _open.append(client)
    if key is not None:
        await client.say(op="auth", token=api.keys.get(key, key))
    return client


_open: list[Client] = []


def told(story: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run it on a loop; the sockets that it left open are closed."""

    @in_loop
    async def whole() -> None:
        try:
            await story()
        finally:
            while _open:
                client = _open.pop()
                client.line.close()
                await client.closed()

    return whole


async def submit(api: Api, queue: str, count: int = 1, name: str = "image.resize") -> list[str]:
    return await elsewhere(api, lambda: api.system.submit(count, queue=queue, name=name))


async def run_one(api: Api, queue: str) -> None:
    async def work() -> None:
        await api.system.broker.ensure([queue])
        await api.system.settle(await api.system.take(queue=queue))

    await elsewhere(api, work)


async def elsewhere[T](api: Api, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do something on the API's loop."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), api.loop))


# -- what a subscriber hears ---------------------------------------------------------------------------------


def test_a_subscriber_sees_what_is_and_then_what_happens(api: Api) -> None:
    @told
    async def story() -> None:
        (before,) = await submit(api, "seen")
        client = await connect(api, key="read")
        await client.say(op="subscribe", id="a", filter={"queue": "seen"})
        snapshot = await client.hear()
        assert (snapshot["type"], snapshot["id"]) == ("snapshot", "a")
        assert [task["id"] for task in snapshot["tasks"]] == [before]
        (after,) = await submit(api, "seen")
        await submit(api, "unseen")
        await run_one(api, "seen")
        events = await client.events("a", 3)
        assert [event["kind"] for event in events] == ["submitted", "started", "succeeded"]
        assert [event["task_id"] for event in events] == [after, before, before]

    story()


@pytest.mark.parametrize(
    ("wanted", "kinds"),
    [
        ({"state": "running"}, ["started", "started"]),
        ({"state": "succeeded"}, ["succeeded", "succeeded"]),
        ({"state": "queued"}, ["submitted", "submitted"]),
        ({"name": "demo.any"}, ["submitted", "started", "succeeded"]),
        ({"name": "demo.an"}, []),
        ({"id": "first"}, ["submitted", "started", "succeeded"]),
    ],
)
def test_a_filter_takes_exact_values(api: Api, wanted: dict[str, str], kinds: list[str]) -> None:
    @told
    async def story() -> None:
        client = await connect(api, key="read")
        (first,) = await submit(api, "filtered", name="demo.any") if wanted.get("id") else [""]
        cursor = (await beginning(api)) if not first else None
        asked = {"id": first} if first else {**wanted, "queue": "filtered"}
        await client.say(op="subscribe", id="f", filter=asked, after=cursor)
        await client.say(op="subscribe", id="all", filter={"queue": "filtered"})
        await client.hear(kind="snapshot", id="all")
        if not first:
            await submit(api, "filtered", name="demo.any")
        await run_one(api, "filtered")
        await submit(api, "filtered")
        await run_one(api, "filtered")
        await client.events("all", 6 if not first else 5)
        due = kinds[1:] if first else kinds

        def heard() -> list[str]:
            told = [m for m in client.heard if m["type"] == "events" and m["id"] == "f"]
            return [event["kind"] for message in told for event in message["events"]]

        while len(heard()) < len(due):
            await client.hear()
        assert heard() == due

    story()


async def beginning(api: Api) -> str:
    """Where the stream of events stands, as a cursor that the API has not made itself."""

    async def ask() -> str:
        async with aclosing(api.system.reader.follow()) as feed:
            return (await anext(feed)).cursor

    return await elsewhere(api, ask)


def test_a_client_that_comes_back_has_missed_nothing(api: Api) -> None:
    @told
    async def story() -> None:
        first = await connect(api, key="read")
        await first.say(op="subscribe", id="a", filter={"queue": "resumed"})
        await first.hear(kind="snapshot")
        made = await submit(api, "resumed")
        cursor = (await first.hear(kind="events"))["cursor"]
        first.line.close()
        made += await submit(api, "resumed", 3)
        made += await submit(api, "resumed", 2)
        again = await connect(api, key="read")
        await again.say(op="subscribe", id="b", filter={"queue": "resumed"}, after=cursor)
        events = await again.events("b", 5)
        assert [event["task_id"] for event in events] == made[1:]
        assert {message["type"] for message in again.heard} <= {"events", "stats"}

    story()


def test_a_cursor_from_before_the_feed_catches_up_and_joins(own: Api) -> None:
    api = own

    @told
    async def story() -> None:
        cursor = await beginning(api)
        made = await submit(api, "old", 3)
        client = await connect(api, key="read")
        await client.say(op="subscribe", id="a", filter={"queue": "old"}, after=cursor)
        events = await client.events("a", 3)
        made += await submit(api, "old", 3)
        events += await client.events("a", 3)
        made += await submit(api, "old", 1)
        events += await client.events("a", 1)
        assert [event["task_id"] for event in events] == made

    story()


def test_progress_is_told_and_not_an_event(api: Api) -> None:
    @told
    async def story() -> None:
        (task_id,) = await submit(api, "steps")
        client = await connect(api, key="read")
        await client.say(op="subscribe", id="a", filter={"id": task_id})
        await client.hear(kind="snapshot")

        async def work() -> None:
            await api.system.broker.ensure(["steps"])
            (claim,) = await api.system.take(queue="steps")
            await api.system.broker.progress("r1", task_id, claim.epoch, 0.1, "begun")
            await api.system.broker.progress("r1", task_id, claim.epoch, 0.5, "half")

        await elsewhere(api, work)
        while not (message := await client.hear(kind="events"))["progress"]:
            pass
        assert message["progress"][task_id] == {"fraction": 0.5, "message": "half"}

    story()


def test_stats_carry_the_overview_and_a_cursor(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws, "STATS_S", 0.05)

    @told
    async def story() -> None:
        client = await connect(api, key="read")
        await client.say(op="subscribe", id="a")
        stats = await client.hear(kind="stats")
        assert "verdict" in stats["overview"]
        assert stats["cursor"]

    story()


def test_unsubscribing_ends_the_messages(api: Api) -> None:
    @told
    async def story() -> None:
        client = await connect(api, key="read")
        await client.say(op="subscribe", id="a", filter={"queue": "left"})
        await client.hear(kind="snapshot")
        await client.say(op="unsubscribe", id="a")
        await client.say(op="subscribe", id="b", filter={"queue": "left"})
        await client.hear(kind="snapshot", id="b")
        await submit(api, "left")
        await client.events("b", 1)
        assert not [m for m in client.heard if m["type"] == "events" and m["id"] == "a"]

    story()


# -- who may ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "code"), [("tq_nonsense", 4401), ("", 4401), ("submit", 4403), ("operate", 4403)]
)
def test_a_key_must_be_good_and_may_read(api: Api, key: str, code: int) -> None:
    @told
    async def story() -> None:
        client = await connect(api, key=key)
        error = await client.hear()
        assert error["type"] == "error"
        assert error["code"] in {"unauthenticated", "forbidden"}
        assert await client.closed() == code

    story()


def test_nothing_is_told_before_the_key(api: Api) -> None:
    @told
    async def story() -> None:
        client = await connect(api)
        await client.say(op="subscribe", id="a")
        assert (await client.hear())["code"] == "unauthenticated"
        assert await client.closed() == 4401

    story()


def test_silence_is_closed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws, "AUTH_S", 0.1)

    @told
    async def story() -> None:
        assert await (await connect(api)).closed() == 4401

    story()


def test_a_key_in_the_header_will_do(api: Api) -> None:
    @told
    async def story() -> None:
        client = await connect(api, Authorization=f"Bearer {api.keys['read']}")
        await client.say(op="subscribe", id="a")
        assert (await client.hear())["type"] == "snapshot"

    story()


def test_a_revoked_key_closes_its_sockets(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((ws, "RECHECK_S"), (ws, "AUTH_S"), (store, "REMEMBERED_S")):
        monkeypatch.setattr(module, name, 0.1)

    @told
    async def story() -> None:
        new = await elsewhere(api, lambda: api.store.create(frozenset({Scope.READ})))
        client = await connect(api, key=new.token)
        await client.say(op="subscribe", id="a")
        await client.hear(kind="snapshot")
        await elsewhere(api, lambda: api.store.revoke(new.key.id))
        assert await client.closed() == 4401

    story()


@pytest.mark.parametrize(
    "headers",
    [
        *({"Origin": origin} for origin in FOREIGN_ORIGINS),
        {"Host": "evil.example"},
        {"Authorization": "Bearer nonsense"},
    ],
)
def test_a_handshake_from_elsewhere_is_refused(api: Api, headers: dict[str, str]) -> None:
    @told
    async def story() -> None:
        with pytest.raises(HTTPClientError) as refused:
            await connect(api, **headers)
        assert refused.value.code == (401 if "Authorization" in headers else 403)

    story()


def test_an_origin_that_begins_like_ours_is_foreign(api: Api) -> None:
    @told
    async def story() -> None:
        for origin in (f"{api.url}.evil.example", f"{api.url}0", api.url.replace("http", "https")):
            with pytest.raises(HTTPClientError) as refused:
                await connect(api, Origin=origin)
            assert refused.value.code == 403
        await connect(api, Origin=api.url, key="read")

    story()


def test_a_token_in_the_address_is_refused(api: Api) -> None:
    @told
    async def story() -> None:
        with pytest.raises(HTTPClientError) as refused:
            await connect(api, path=f"/ws?token={api.keys['read']}")
        assert refused.value.code == 401

    story()


# -- bounds -----------------------------------------------------------------------------------------------


def test_mistakes_are_told_and_then_enough(api: Api) -> None:
    @told
    async def story() -> None:
        client = await connect(api, key="read")
        mistakes = [
            "{",
            '{"op": "dance"}',
            '{"op": "subscribe"}',
            '{"op": "subscribe", "id": "a", "filter": {"colour": "red"}}',
            '{"op": "subscribe", "id": "a", "filter": {"state": "happy"}}',
        ]
        for text in mistakes:
            await client.line.write_message(text)
        codes = [(await client.hear())["code"] for _ in mistakes]
        assert codes == ["invalid_json", *["invalid_option"] * 4]
        assert await client.closed() == 1008

    story()


@pytest.mark.parametrize("text", ["[" * 30_000, '"' + "\\ud800" * 10 + '"', "null", "[]", "7"])
def test_no_text_breaks_a_socket(api: Api, text: str) -> None:
    @told
    async def story() -> None:
        client = await connect(api, key="read")
        await client.line.write_message(text)
        assert (await client.hear())["type"] == "error"
        await client.line.write_message(b"\xff\xfe", binary=True)
        assert (await client.hear())["type"] == "error"
        await client.say(op="subscribe", id="a")
        assert (await client.hear())["type"] == "snapshot"

    story()


def test_a_foreign_cursor_and_a_taken_id_are_told(api: Api) -> None:
    @told
    async def story() -> None:
        client = await connect(api, key="read")
        await client.say(op="subscribe", id="a", after="nonsense")
        assert (await client.hear(id="a"))["code"] == "invalid_option"
        await client.say(op="subscribe", id="b")
        await client.hear(kind="snapshot")
        await client.say(op="subscribe", id="b")
        assert (await client.hear(kind="error"))["code"] == "invalid_option"
        await client.say(op="unsubscribe", id="c")
        assert (await client.hear(kind="error"))["code"] == "not_found"

    story()


def test_subscriptions_are_bounded(api: Api) -> None:
    @told
    async def story() -> None:
        client = await connect(api, key="read")
        for number in range(ws.MAX_SUBSCRIPTIONS + 1):
            await client.say(op="subscribe", id=str(number), filter={"queue": "none"})
        error = await client.hear(kind="error")
        assert (error["id"], error["code"]) == (str(ws.MAX_SUBSCRIPTIONS), "invalid_option")

    story()


def test_a_frame_that_is_too_large_closes(api: Api) -> None:
    @told
    async def story() -> None:
        client = await connect(api, key="read")
        await client.line.write_message("x" * (ws.MAX_MESSAGE + 1))
        assert await client.closed() == 1009

    story()


def test_a_flood_of_messages_closes(api: Api) -> None:
    @told
    async def story() -> None:
        client = await connect(api, key="read")
        for _ in range(200):
            await client.say(op="auth", token=api.keys["read"])
        assert (await client.hear())["code"] == "rate_limited"
        assert await client.closed() == 1008

    story()


def test_sockets_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    @told
    async def story() -> None:
        client = await connect(api, key="admin")
        await client.say(op="subscribe", id="a")
        await client.hear(kind="snapshot")
        monkeypatch.setattr(ws, "MAX_PER_KEY", 1)
        assert (await (await connect(api, key="admin")).hear())["code"] == "forbidden"
        monkeypatch.setattr(ws, "MAX_SOCKETS", 1)
        with pytest.raises(HTTPClientError) as refused:
            await connect(api)
        assert refused.value.code == 503

    story()


def test_compression_stays_off(api: Api) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=LONG_S) as line:
        line.sendall(handshake())
        answer = line.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"deflate" not in answer


def handshake() -> bytes:
    return (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )


def frame(text: str) -> bytes:
    """A masked text frame."""
    data = text.encode()
    assert len(data) < 126
    return bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data


@pytest.mark.slow
def test_a_client_that_does_not_read_is_told_and_closed(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(subscriptions, "OUTBOX_BYTES", 1_000_000)
    caplog.set_level(logging.INFO, "taskq.api")
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(LONG_S)
        line.connect(("127.0.0.1", api.port))
        line.sendall(handshake() + frame(json.dumps({"op": "auth", "token": api.keys["read"]})))
        for number in range(8):
            line.sendall(
                frame(json.dumps({"op": "subscribe", "id": str(number), "filter": {"queue": "fast"}}))
            )
        eventually_sync(lambda: "taskq_ws_clients 1\n" in api.get("/metrics").text, "the socket to be there")

        def flooded() -> bool:
            api.run(api.system.submit(500, queue="fast"))
            return "reads too slowly" in caplog.text

        eventually_sync(flooded, "the outbox to be full", timeout=60)
        heard = b""
        while b"resume behind" not in heard[-60:]:
            heard += line.recv(1 << 20)
    assert heard.count(b'{"type":"gap"') == 8
    assert b"\x88" in heard[-60:]
    assert (1013).to_bytes(2) in heard[-60:]
    eventually_sync(lambda: "taskq_ws_clients 0\n" in api.get("/metrics").text, "the socket to be gone")


def test_a_drain_sends_clients_away(own: Api) -> None:
    api = own

    @told
    async def story() -> None:
        client = await connect(api, key="read")
        await client.say(op="subscribe", id="a")
        await client.hear(kind="snapshot")
        api.loop.call_soon_threadsafe(api.stop.set)
        assert await client.closed() == 1001

    story()
