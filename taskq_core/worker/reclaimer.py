"""Duty: leases that ran out, of workers that are gone, are acted upon."""

from __future__ import annotations

import random
from collections.abc import Callable

from taskq_core.broker.functions import Broker
from taskq_core.clock import monotonic_ns

__all__ = ["Reclaimer"]

MOST_AT_ONCE = 500


class Reclaimer:
    """Scans each quarter of a lease. An entry is acted upon when two scans in a row saw it expired."""

    def __init__(self, broker: Broker, lease_s: float, queues: Callable[[], list[str]]) -> None:
        self._broker = broker
        self._lease_s = lease_s
        self._queues = queues
        self._suspects: list[str] = []
        self._run_id = b""
        self._quiet_until = 0

    async def step(self) -> float:
        """One scan."""
        rest = self._lease_s / 4 * random.uniform(0.8, 1.2)
        await self._notice_restart()
        if monotonic_ns() < self._quiet_until:
            return min(rest, 1.0)
        found = await self._broker.reclaim(
            self._queues(), int(self._lease_s * 1000), MOST_AT_ONCE, self._suspects
        )
        self._suspects = found.suspects
        return 0.05 if found.more and found.acted else rest

    async def _notice_restart(self) -> None:
        """After a restart of the server idle times count the outage: let the living renew first."""
        info = await self._broker.redis.info("server")
        run_id = info["run_id"]
        if self._run_id and run_id != self._run_id:
            self._suspects = []
            self._quiet_until = monotonic_ns() + int((self._lease_s / 4 + min(10.0, self._lease_s)) * 1e9)
        self._run_id = run_id
