"""WS /ws: live events for clients that stay.

A client names itself with its first message (or an Authorization header) and subscribes; it may be slow,
silent, malicious or gone, and is bounded in each: messages in (64 KiB, a rate), subscriptions, messages
waiting to be read, sockets per key and in all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, cast

import msgspec
import tornado.websocket

from services.api.auth import bearer_token
from services.api.core import Core
from services.api.endpoints.route import NoQuery, read_query
from services.api.guard import refuse_keys_in_query
from services.api.problems import MEDIA_TYPE, RateLimited, problem_of
from services.api.subscriptions import Filter, Op, Outbox, Subscription, Tokens, read_op
from taskq_core.access.keys import ApiKey
from taskq_core.access.scopes import Scope, require
from taskq_core.errors import (
    Forbidden,
    InvalidOption,
    NotFound,
    Refused,
    TaskqError,
    Unauthenticated,
    Unavailable,
)
from taskq_core.read.views import FeedBatch, TaskView

__all__ = ["MAX_MESSAGE", "SocketHandler"]

MAX_MESSAGE = 64 * 1024
MAX_SOCKETS = 500
MAX_PER_KEY = 50
MAX_SUBSCRIPTIONS = 16
MAX_MISTAKES = 5
RATE, BURST = 20.0, 40.0  # messages per second
AUTH_S = 5.0
RECHECK_S = 30.0
STATS_S = 2.0
WRITE_S = 10.0
SNAPSHOT_TASKS = 100
SNAPSHOT_BYTES = 1 << 20  # fewer tasks when their payloads are large

UNAUTHENTICATED, FORBIDDEN = 4401, 4403
POLICY, TRY_LATER = 1008, 1013
_log = logging.getLogger("taskq.api")
_encode = msgspec.json.Encoder().encode


class SocketHandler(tornado.websocket.WebSocketHandler):
    """One client. Compression stays off: it would let a small frame become a large one."""

    def initialize(self, core: Core) -> None:  # noqa: D102
        self.core = core
        self._key: ApiKey | None = None
        self._token = ""
        self._subscriptions: dict[str, Subscription] = {}
        self._outbox = Outbox()
        self._tokens = Tokens(RATE, BURST)
        self._mistakes = 0
        self._duties: set[asyncio.Task[None]] = set()
        self._closing = False

    # --- before the upgrade

    def set_default_headers(self) -> None:
        """Nothing about the server's software."""
        self.clear_header("Server")

    async def prepare(self) -> None:
        """Host, origin, keys in the address, sockets in all; a key in the header is checked here."""
        request = self.request
        origin = request.headers.get("Origin")
        self.core.guard.check_host(request.host)
        if origin is not None and not self.core.guard.is_ours(origin, request.protocol, request.host):
            raise Forbidden("requests from other sites are refused")
        refuse_keys_in_query(request.query_arguments)
        _ = read_query(NoQuery, request.query_arguments)
        if not self.core.accepting or len(self.core.sockets) >= MAX_SOCKETS:
            raise Unavailable("no more sockets here now; try again")
        header = request.headers.get("Authorization")
        if header is not None or not self.core.auth.required:
            await self._accept_key(bearer_token(header))

    def check_origin(self, origin: str) -> bool:
        """Exact; see the guard. Tornado asks this after `prepare`."""
        return self.core.guard.is_ours(origin, self.request.protocol, self.request.host)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A refusal before the upgrade."""
        error = cast(tuple[Any, BaseException | None, Any], kwargs.get("exc_info") or (None, None, None))[1]
        problem, headers = problem_of(error or RuntimeError(status_code))
        self.set_status(problem.status)
        for name, value in {**headers, "Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"}.items():
            self.set_header(name, value)
        _ = self.finish(_encode(problem))  # pyright: ignore[reportUnknownMemberType]

    def log_exception(self, typ: type[BaseException] | None, value: BaseException | None, tb: Any) -> None:
        """Refusals are the client's business."""
        if not isinstance(value, TaskqError):
            super().log_exception(typ, value, tb)

    # --- the socket

    def open(self, *_args: str, **_kwargs: str) -> None:
        """It stands."""
        self.core.sockets.add(self)
        self.core.metrics.ws_clients += 1
        _ = self._start(self._write())
        _ = self._start(self._watch_key())
        _ = self._start(self._tell_stats())

    def on_close(self) -> None:
        """It is gone."""
        if self in self.core.sockets:
            self.core.sockets.discard(self)
            self.core.metrics.ws_clients -= 1
        self._closing = True
        for subscription in list(self._subscriptions.values()):
            self._drop(subscription)
        for duty in list(self._duties):
            _ = duty.cancel()

    async def on_message(self, message: str | bytes) -> None:
        """One message of the client; the next is read when this one is dealt with."""
        if self._closing:
            return
        if not self._tokens.take():
            self._say_error(RateLimited(f"more than {RATE:g} messages a second"))
            self._leave(POLICY, "too many messages")
            return
        about: str | None = None
        try:
            op = read_op(message)
            about = op.id
            await self._do(op)
        except Unauthenticated as error:
            self._say_error(error, about)
            self._leave(UNAUTHENTICATED, "a valid API key is needed")
        except Forbidden as error:
            self._say_error(error, about)
            self._leave(FORBIDDEN, "the key lacks the scope read")
        except Refused as error:
            self._say_error(error, about)
            self._count_mistake()
        except TaskqError as error:
            self._say_error(error, about)

    async def _do(self, op: Op) -> None:
        if op.op == "auth":
            await self._accept_key(op.token or "")
        elif self._key is None:
            raise Unauthenticated
        elif op.op == "subscribe":
            self._subscribe(op.id or "", op.filter, op.after)
        elif (subscription := self._subscriptions.get(op.id or "")) is not None:
            self._drop(subscription)
        else:
            raise NotFound("there is no subscription of this id")

    # --- the key

    async def _accept_key(self, token: str) -> None:
        """Raises Unauthenticated, Forbidden, Unavailable."""
        key = await self.core.auth.check(token)
        require(key.scopes, Scope.READ)
        same = sum(
            socket.key_id == key.id for socket in self.core.sockets if isinstance(socket, SocketHandler)
        )
        if self._key is None and same >= MAX_PER_KEY:
            raise Forbidden(f"this key has {MAX_PER_KEY} sockets open")
        self._key, self._token = key, token

    @property
    def key_id(self) -> str:
        """Whose socket it is; empty before it is known."""
        return self._key.id if self._key else ""

    async def _watch_key(self) -> None:
        """Close a socket that does not name itself in time, or whose key is revoked."""
        await asyncio.sleep(AUTH_S)
        while self._key is not None:
            await asyncio.sleep(RECHECK_S)
            try:
                require((await self.core.auth.check(self._token)).scopes, Scope.READ)
            except Unavailable:
                self._leave(TRY_LATER, "keys cannot be checked now")
                return
            except Refused:
                break
        self._leave(UNAUTHENTICATED, "a valid API key is needed")

    # --- subscriptions

    def _subscribe(self, id: str, wanted: Filter, after: str | None) -> None:
        """Raises InvalidOption when there is no room or the id is taken."""
        if id in self._subscriptions:
            raise InvalidOption("this id is subscribed already; unsubscribe it first")
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise InvalidOption(f"a socket has at most {MAX_SUBSCRIPTIONS} subscriptions")
        subscription = Subscription(id, wanted, self.core.live)
        self._subscriptions[id] = subscription
        subscription.work = self._start(self._serve(subscription, after))

    async def _serve(self, subscription: Subscription, after: str | None) -> None:
        """Snapshot (unless it resumes), then events."""
        try:
            if after is None:
                after = await self._tell_snapshot(subscription)

            def deliver(batch: FeedBatch) -> None:
                for text in subscription.messages(batch):
                    self._say(text, subscription)

            subscription.deliver = deliver
            await self.core.live.attach(after, deliver)
        except TaskqError as error:
            self._say_error(error, subscription.id)
            self._drop(subscription)

    async def _tell_snapshot(self, subscription: Subscription) -> str:
        """The newest tasks that fit; answers the cursor taken before they were read."""
        subscription.cursor = await self.core.live.position()
        tasks = await self._tasks(subscription.wanted)
        text = subscription.message("snapshot", tasks=tasks)
        while len(text) > SNAPSHOT_BYTES and len(tasks) > 1:
            tasks = tasks[: len(tasks) // 2]
            text = subscription.message("snapshot", tasks=tasks)
        self._say(text, subscription)
        return subscription.cursor

    async def _tasks(self, wanted: Filter) -> list[TaskView]:
        reader = self.core.reader
        if wanted.id is None:
            page = await reader.tasks(
                state=wanted.state, queue=wanted.queue, name=wanted.name, limit=SNAPSHOT_TASKS
            )
            return page.tasks
        with suppress(NotFound):
            return [await reader.task(wanted.id)]
        return []

    def _drop(self, subscription: Subscription) -> None:
        if self._subscriptions.get(subscription.id) is subscription:
            del self._subscriptions[subscription.id]
        if subscription.deliver is not None:
            self.core.live.detach(subscription.deliver)
        if subscription.work is not None and subscription.work is not asyncio.current_task():
            _ = subscription.work.cancel()

    async def _tell_stats(self) -> None:
        """The overview every two seconds, to every subscription; it carries the newest cursor."""
        while True:
            await asyncio.sleep(STATS_S)
            if not self._subscriptions:
                continue
            overview = msgspec.Raw(_encode(await self.core.health()))
            for subscription in list(self._subscriptions.values()):
                if subscription.cursor is not None:
                    self._say(subscription.message("stats", overview=overview), subscription)

    # --- out

    def _say(self, text: bytes, subscription: Subscription | None = None) -> None:
        """Put a message into the outbox; a client that does not read is told what it lacks, and closed."""
        if self._closing or self._outbox.put(text, subscription):
            return
        self._outbox.clear()
        for one in self._subscriptions.values():
            one.cursor = one.sent
            _ = self._outbox.put(one.message("gap", missed=None))
        _log.info("a socket reads too slowly", extra={"key": self.key_id})
        self._leave(TRY_LATER, "too slow; resume behind the cursor")

    def _say_error(self, error: TaskqError, id: str | None = None) -> None:
        problem, _ = problem_of(error)
        text = {"type": "error", "id": id, "cursor": None, "code": problem.code, "detail": problem.detail}
        self._say(_encode(text))

    def _count_mistake(self) -> None:
        self._mistakes += 1
        if self._mistakes >= MAX_MISTAKES:
            self._leave(POLICY, "too many mistakes")

    def _leave(self, code: int, reason: str) -> None:
        """Say what is in the outbox, then close."""
        if not self._closing:
            self._closing = True
            _ = self._start(self._part(code, reason))

    async def _part(self, code: int, reason: str) -> None:
        """Wait a bounded time for the rest to be written."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITE_S / 2):
                await self._outbox.emptied()
        self.close(code, reason)

    async def _write(self) -> None:
        """Send message after message, each when the one before has left."""
        with suppress(tornado.websocket.WebSocketClosedError):
            while True:
                text, subscription, cursor = await self._outbox.take()
                await self.write_message(text.decode())
                if subscription is not None:
                    subscription.sent = cursor

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        duty = asyncio.create_task(work)
        self._duties.add(duty)
        duty.add_done_callback(self._ended)
        return duty

    def _ended(self, duty: asyncio.Task[None]) -> None:
        self._duties.discard(duty)
        if not duty.cancelled() and (error := duty.exception()) is not None:
            _log.error("a socket failed", exc_info=error)
            self.close(1011, "something went wrong here")
