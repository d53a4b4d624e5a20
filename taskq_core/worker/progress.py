"""Progress reports of running tasks: the latest word wins, at most one a second leaves the process."""

from __future__ import annotations

from collections.abc import Callable

from taskq_core.broker.functions import Broker
from taskq_core.clock import monotonic_ns

__all__ = ["ProgressBook"]

_EVERY_NS = 1_000_000_000


class _Entry:
    __slots__ = ("epoch", "fraction", "message", "new", "told")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.fraction = 0.0
        self.message = ""
        self.new = False
        self.told = 0


class ProgressBook:
    """What the tasks of one runner last said. Written from any thread, sent by the runner's ticker."""

    def __init__(self, owner: str, broker: Broker) -> None:
        self._owner = owner
        self._broker = broker
        self._entries: dict[str, _Entry] = {}

    def reporter(self, task_id: str, epoch: int) -> Callable[[float, str], None]:
        """The function that an attempt reports with."""

        def report(fraction: float, message: str) -> None:
            entry = self._entries.get(task_id)
            if entry is None or entry.epoch != epoch:
                entry = self._entries[task_id] = _Entry(epoch)
            entry.fraction, entry.message, entry.new = fraction, message, True

        return report

    def forget(self, task_id: str) -> None:
        """The attempt is over."""
        if self._entries:
            self._entries.pop(task_id, None)

    async def send(self) -> None:
        """Send what is new and was not sent within the last second."""
        now = monotonic_ns()
        for task_id, entry in list(self._entries.items()):
            if entry.new and now - entry.told >= _EVERY_NS:
                entry.new, entry.told = False, now
                await self._broker.progress(self._owner, task_id, entry.epoch, entry.fraction, entry.message)
