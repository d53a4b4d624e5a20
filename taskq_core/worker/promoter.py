"""Duty: what is due goes into its line."""

from __future__ import annotations

from taskq_core.broker.functions import Broker

__all__ = ["Promoter"]

LONGEST_REST_S = 0.1
FULL = 100


class Promoter:
    """Every worker does it; the function makes sure that a task is moved once."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def step(self) -> float:
        """Promote once; rest until the next due time, a tenth of a second at most."""
        promoted = await self._broker.promote()
        if promoted.moved >= FULL:
            return 0.0
        if promoted.next_due == 0:
            return LONGEST_REST_S
        return min(max((promoted.next_due - promoted.at) / 1000, 0.001), LONGEST_REST_S)
