"""Both stores made ready: functions, schema, and the administrator's key.

Imported while the servers start: what it needs takes longer to import than they to start.
"""

from __future__ import annotations

import asyncio

from taskq_core.access import KeyStore, Scope, make_key
from taskq_core.audit.migrate import migrate
from taskq_core.broker.functions import Broker
from taskq_core.broker.keys import KEY_PREFIX
from taskq_core.config import Settings
from taskq_core.embedded import DataFolder

__all__ = ["prepare_stores"]

_ADMIN = frozenset({Scope.ADMIN})
_WORTH_SAYING = "left out"


async def prepare_stores(settings: Settings, folder: DataFolder) -> tuple[str, list[str]]:
    """Answers the administrator's token (kept in the folder over restarts) and what could not be done.

    Raises ConfigError for servers that are unfit, Unavailable for those that are away.
    """
    async with await Broker.connect(settings.redis_url, name="taskq up", patience=5.0) as broker:
        said = await migrate(settings.database_url)
        token = await asyncio.to_thread(folder.read_token) or make_key(_ADMIN).token
        keys = KeyStore(broker.redis, KEY_PREFIX)
        await keys.adopt(token, _ADMIN, label="taskq up", now_ms=broker.clock.now_ms())
    folder.write_token(token)
    return token, [line for line in said if line.startswith(_WORTH_SAYING)]
