"""Real Valkey and PostgreSQL on this machine: found, started, watched and stopped.

Only `taskq_core.app`, `taskq_core.testing` and `services.up` import this package.
"""

from taskq_core.embedded.find import FoundServer, find_postgres, find_valkey
from taskq_core.embedded.folder import DataFolder, UpInfo
from taskq_core.embedded.memory import memory_limit
from taskq_core.embedded.options import ServerOptions
from taskq_core.embedded.servers import Servers

__all__ = [
    "DataFolder",
    "FoundServer",
    "ServerOptions",
    "Servers",
    "UpInfo",
    "find_postgres",
    "find_valkey",
    "memory_limit",
]
