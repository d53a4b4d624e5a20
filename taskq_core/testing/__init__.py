"""For tests of your own tasks: a worker in this process, waiting, and checks that nothing was lost."""

from taskq_core.testing.conservation import conservation_faults
from taskq_core.testing.waiting import eventually
from taskq_core.testing.worker import LocalWorker

__all__ = ["LocalWorker", "conservation_faults", "eventually"]
