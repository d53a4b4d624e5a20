"""Both servers, a broker and a reader over them, and tasks that a test moves by hand."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence

import msgspec

from taskq_core.audit.history import open_pool
from taskq_core.audit.migrate import migrate
from taskq_core.audit.relay import Relay
from taskq_core.broker.functions import Broker
from taskq_core.broker.protocol import Claim, Finish, Op, QueueWant, Settled, TakeWant
from taskq_core.broker.stream import StreamSource
from taskq_core.model.codec import digest
from taskq_core.model.task import Options, Submission, pack_options
from taskq_core.read.direct import DirectReader
from tests.support.history import running
from tests.support.servers import RunningServers
from tests.support.wait import eventually

QUEUE = "images"
NAME = "image.resize"


class System:
    """A system without workers: the test takes and settles itself."""

    def __init__(self, broker: Broker, reader: DirectReader, database_url: str) -> None:
        self.broker = broker
        self.reader = reader
        self.database_url = database_url

    async def submit(
        self,
        count: int = 1,
        *,
        queue: str = QUEUE,
        name: str = NAME,
        payload: str = '{"source":"cat.jpg","password":"x"}',
        delay_ms: int = 0,
        max_attempts: int = 2,
        base: float = 0.0,
    ) -> list[str]:
        """Accept tasks; answers their ids."""
        ids = await self.broker.new_ids(count)
        options = pack_options(Options(max_attempts=max_attempts, base=base))
        tasks = [
            Submission(
                id=task_id,
                name=name,
                queue=queue,
                priority="normal",
                payload=payload,
                options=options,
                digest=digest(payload.encode()),
                delay_ms=delay_ms,
                metadata='{"user":42}',
                trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            )
            for task_id in ids
        ]
        replies = await self.broker.submit(tasks, "tester")
        assert all(reply.code == "" for reply in replies)
        return ids

    async def take(self, count: int = 1, *, queue: str = QUEUE, owner: str = "r1") -> Sequence[Claim]:
        """Claim tasks for a runner."""
        want = TakeWant(
            owner=owner,
            code_version="v1",
            budgets=[count, count, count],
            queues=[QueueWant(queue, [1])],
            streams=["high", "normal", "low"],
        )
        return (await self.broker.take(want)).claims

    async def settle(
        self, claims: Sequence[Claim], op: Op = Op.OK, body: str = '{"ok":true}', owner: str = "r1"
    ) -> list[Settled]:
        """End the leases of claims."""
        finishes = [
            Finish(task_id=one.task_id, entry=one.entry, epoch=one.epoch, op=op, run_ms=12.5, body=body)
            for one in claims
        ]
        return await self.broker.settle(owner, finishes)

    async def fail(self, claims: Sequence[Claim]) -> list[Settled]:
        """Let attempts fail."""
        error = msgspec.json.encode({"type": "ValueError", "message": "no", "fingerprint": "f1"}).decode()
        return await self.settle(claims, Op.FAIL, error)

    @contextlib.asynccontextmanager
    async def relay(self) -> AsyncGenerator[None]:
        """A relay at work."""
        source = StreamSource(self.broker)
        try:
            async with running(Relay(source, self.database_url)):
                yield
        finally:
            await source.close()

    async def carry(self) -> None:
        """Let a relay carry all there is."""
        async with self.relay():
            await self.carried()

    async def carried(self) -> None:
        """Wait until the history has everything."""

        async def done() -> bool:
            return (await self.reader.overview()).relay.backlog == 0

        await eventually(done, "the relay to carry everything", timeout=20)


@contextlib.asynccontextmanager
async def a_system(servers: RunningServers, database_url: str) -> AsyncGenerator[System]:
    """An empty Redis and a migrated database."""
    await migrate(database_url)
    broker = await Broker.connect(servers.redis_url, patience=2.0)
    await broker.redis.flushall()
    await broker.ensure([QUEUE])
    pool = await open_pool(database_url)
    try:
        yield System(broker, DirectReader(broker, pool), database_url)
    finally:
        await pool.close(timeout=1.0)
        await broker.close()
