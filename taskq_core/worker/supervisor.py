"""A worker: a supervisor that runs no user code, and the runners that do.

The supervisor owns the leases, the deadlines and the processes. What a runner was doing it reads from the
slot table, so that code which blocks, holds the interpreter or dies can lose no lease and no task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable

import msgspec
from redis.exceptions import RedisError

from taskq_core.broker.functions import Broker
from taskq_core.broker.keys import CONTROL, SOLO
from taskq_core.broker.redis import make_redis
from taskq_core.clock import monotonic_ns
from taskq_core.errors import ConfigError, TaskqError
from taskq_core.worker.aftermath import settle_dead
from taskq_core.worker.child import RunnerChild, StartError
from taskq_core.worker.config import WorkerConfig
from taskq_core.worker.control import Message
from taskq_core.worker.duty import Duty
from taskq_core.worker.janitor import Gardener, Registrar, Unparker
from taskq_core.worker.keeper import LeaseKeeper, LimitKeeper
from taskq_core.worker.process import how_it_died
from taskq_core.worker.promoter import Promoter
from taskq_core.worker.reclaimer import Reclaimer
from taskq_core.worker.reload import SourceWatch

__all__ = ["Supervisor"]

logger = logging.getLogger("taskq.worker")

MOST_SOLO = 4
SOLO_IDLE_NS = 15 * 1_000_000_000
KILL_AFTER_GRACE_S = 5.0


class _Order(msgspec.Struct, frozen=True):
    """What the functions say on the control channel."""

    op: str
    id: str = ""
    owner: str = ""
    queue: str = ""


_read_order = msgspec.json.Decoder(_Order).decode


class Supervisor:
    """One worker. `run` until `stop` is set, then drain."""

    def __init__(self, config: WorkerConfig, on_ready: Callable[[], None] | None = None) -> None:
        self.config = config
        self.id = f"w{secrets.token_hex(4)}"
        self._on_ready = on_ready
        self._children: dict[str, RunnerChild] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._count = 0
        self._stopping = False
        self._now = asyncio.Event()  # a second signal: stop at once
        self._deaths: list[int] = []
        self._lacking = False  # a runner that should be there could not be started yet

    # --- life

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`. Raises ConfigError when the first runner cannot start for the user's code."""
        async with await Broker.connect(self.config.redis_url, name="taskq worker") as broker:
            self._broker = broker
            broker.patience = 5.0
            await self._agree_on_lease()
            await self._start_first()
            registrar = Registrar(broker, self.config, self.id, self._alive)
            duties = [asyncio.create_task(duty.run(), name=duty.name) for duty in self._duties(registrar)]
            duties.append(asyncio.create_task(self._hear_control(), name="control"))
            with contextlib.suppress(TaskqError, RedisError, OSError):  # it says so again in two seconds
                await registrar.step()
            if self._on_ready:
                self._on_ready()
            try:
                await self._until(stop, duties)
            finally:
                registrar.state = "draining"
                with contextlib.suppress(TaskqError, RedisError, OSError):
                    await registrar.step()
                await self._drain()
                for duty in duties:
                    duty.cancel()
                await asyncio.gather(*duties, return_exceptions=True)
                with contextlib.suppress(TaskqError, RedisError, OSError):
                    await registrar.remove()

    def stop_now(self) -> None:
        """Do not wait for what runs: give it back."""
        self._now.set()

    async def _until(self, stop: asyncio.Event, duties: list[asyncio.Task[None]]) -> None:
        """A duty that ends is a defect: it is raised here, the drain follows."""
        waiting = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([waiting, *duties], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done - {waiting}:
            task.result()

    async def _agree_on_lease(self) -> None:
        lease_ms, _ = await self._broker.ensure([], int(self.config.lease_s * 1000))
        if lease_ms != int(self.config.lease_s * 1000):
            message = (
                f"TASKQ_LEASE is {self.config.lease_s:g} s, but this system runs with {lease_ms / 1000:g} s: "
                "set the same everywhere"
            )
            raise ConfigError(message)

    def _duties(self, registrar: Registrar) -> list[Duty]:
        broker, lease = self._broker, self.config.lease_s
        duties = [
            Duty("promoter", Promoter(broker).step),
            Duty("leases", LeaseKeeper(broker, lease, self._alive).step),
            Duty("limits", LimitKeeper(self._alive).step),
            Duty("reclaimer", Reclaimer(broker, lease, self._queues).step),
            Duty("registrar", registrar.step),
            Duty("unparker", Unparker(broker, self._alive).step),
            Duty("gardener", Gardener(broker, self._queues).step),
            Duty("quarantine", self._keep_quarantine),
            Duty("runners", self._keep_runners),
        ]
        if self.config.reload:
            duties.append(Duty("reload", SourceWatch(self._loaded, self._reload).step))
        return duties

    def _alive(self) -> list[RunnerChild]:
        return [child for child in self._children.values() if child.alive]

    def _queues(self) -> list[str]:
        return sorted({queue for child in self._alive() for queue in child.ready.queues})

    # --- runners

    async def _start(self, *, solo: bool = False) -> RunnerChild:
        self._count += 1
        child = await RunnerChild.start(self.config, f"{self.id}.{self._count}", solo=solo)
        self._children[child.owner] = child
        if self._stopping:
            child.drain(0.0)  # it came up after the others were told
        watcher = asyncio.create_task(self._watch(child))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return child

    async def _start_first(self) -> None:
        try:
            await asyncio.gather(*(self._start() for _ in range(self.config.processes)))
        except StartError as error:
            if not self.config.reload:
                await self._drain()
                raise ConfigError(str(error).strip()) from error
            logger.warning("the code cannot be loaded; waiting for a change\n%s", error)

    async def _watch(self, child: RunnerChild) -> None:
        """Wait for the end of a runner and settle what it held. Nothing is lost when Redis is away."""
        code = await child.process.wait()
        if not child.draining or code != 0:
            held = sum(1 for _ in child.slots.taken())
            logger.warning("runner %s ended with %s holding %d tasks", child.pid, how_it_died(code), held)
            self._deaths.append(monotonic_ns())
        pause = 0.1
        while True:
            try:
                await settle_dead(self._broker, child, code)
                break
            except (TaskqError, RedisError, OSError) as error:
                logger.warning("settling for a dead runner: %s; again", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
        self._children.pop(child.owner, None)
        child.close()

    async def _keep_runners(self) -> float:
        """Replace runners that died: at once, and slower when they die again and again."""
        if self._stopping:
            return 1.0
        plain = [child for child in self._alive() if not child.solo and not child.draining]
        if len(plain) < self.config.processes and (plain or self._deaths or not self.config.reload):
            recent = [at for at in self._deaths if monotonic_ns() - at < 30e9]
            self._deaths = recent
            if len(recent) > 3:
                await asyncio.sleep(min(0.25 * 2 ** (len(recent) - 3), 5.0))
            try:
                await self._start()
            except StartError as error:
                logger.warning("a runner cannot start: %s", error)
                return 2.0
        return 0.1

    async def _keep_quarantine(self) -> float:
        """Runners for tasks that may have crashed one: there while such tasks wait."""
        solo = [child for child in self._alive() if child.solo]
        waiting = await self._solo_waiting()
        # One task each, so that blame is certain; several, so that many innocents do not queue for one.
        wanted = min(MOST_SOLO, 1 + waiting // 8) if waiting else 0
        if len(solo) < wanted and not self._stopping:
            try:
                await self._start(solo=True)
            except StartError as error:
                logger.warning("a quarantine runner cannot start: %s", error)
                return 2.0
        for child in solo:
            if waiting or any(child.slots.taken()):
                child.idle_since = monotonic_ns()
            elif monotonic_ns() - child.idle_since > SOLO_IDLE_NS and not child.draining:
                child.drain(self.config.grace_s)
        return 0.25

    async def _solo_waiting(self) -> int:
        queues = self._queues()
        if not queues:
            return 0
        async with self._broker.redis.pipeline(transaction=False) as pipe:
            for queue in queues:
                pipe.xlen(self._broker.keys.ready(queue, SOLO))
            lengths: list[int] = await pipe.execute()
        return sum(lengths)

    # --- being told

    async def _hear_control(self) -> None:
        """Cancellations and give-backs arrive by Pub/Sub; what is missed comes with the next renewal."""
        while True:
            client = make_redis(self.config.redis_url, timeout=None, name="taskq control")
            subscription = client.pubsub()
            try:
                await subscription.subscribe(CONTROL)
                async for message in subscription.listen():
                    if message["type"] == "message":
                        self._obey(message["data"])
            except (RedisError, OSError) as error:
                logger.warning("control: %s; listening again", error)
                await asyncio.sleep(1.0)
            finally:
                with contextlib.suppress(RedisError, OSError):
                    await subscription.aclose()
                    await client.aclose()

    def _obey(self, text: bytes) -> None:
        try:
            order = _read_order(text)
        except msgspec.MsgspecError as error:
            logger.warning("control: a message that no function sends: %s", error)
            return
        child = self._children.get(order.owner)
        if order.op == "cancel" and child is not None:
            child.line.send(Message("cancel", ids=[order.id]))
        elif order.op == "returned":
            for child in self._alive():
                if order.queue in child.ready.queues:
                    child.line.send(Message("poke"))

    # --- reload

    def _loaded(self) -> dict[str, int]:
        """Files of the running code, with their times when they were read."""
        running = [child for child in self._alive() if not child.draining and not child.solo]
        return {file: at for child in running for file, at in child.ready.files.items()}

    async def _reload(self) -> None:
        """Start runners with the new code, then drain the old; broken code keeps the old."""
        old = [child for child in self._alive() if not child.draining]
        try:
            await asyncio.gather(*(self._start() for _ in range(self.config.processes)))
        except StartError as error:
            logger.warning("the changed code cannot be loaded; the last good one goes on\n%s", error)
            return
        for child in old:
            child.drain(self.config.grace_s)
        logger.info("reloaded")

    # --- the end

    async def _drain(self) -> None:
        """Stop taking at once, wait for what runs, give back the rest."""
        self._stopping = True
        for child in self._alive():
            child.drain(0.0 if self._now.is_set() else self.config.grace_s)
        ended = asyncio.gather(*self._watchers, return_exceptions=True)
        hurry = asyncio.create_task(self._now.wait())
        limit = self.config.grace_s + KILL_AFTER_GRACE_S
        await asyncio.wait([ended, hurry], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            for child in self._alive():
                child.drain(0.0)
            await asyncio.wait([ended], timeout=1.0 if self._now.is_set() else KILL_AFTER_GRACE_S)
        hurry.cancel()
        for child in self._alive():
            await child.kill()
        if self._watchers:  # also of a runner that came up meanwhile
            await asyncio.wait(self._watchers, timeout=5.0)
