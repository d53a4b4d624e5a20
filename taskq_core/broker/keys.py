"""Every Redis key, spelled here and (composed from the shard's prefix) in lua/lib/keys.lua only.

A shard is one hash tag: all its keys live on one node. Shard 0 has the tag `0`.

Task hash `taskq:{T}:task:<id>`, fields kept short because every queued task pays for them:

====  =======================================  ====  ==========================================
l     life: state epoch attempt entry owner     k     crashes that it may share the blame for
      since, six words (lua/lib/life.lua)       i     times it was interrupted by a neighbour
n     name                                      c     cancellation asked by (actor)
q     queue                                     ch    channels of those who await the end
p     priority, or `solo` (see below)           pf    progress, JSON {fraction, message, at}
d     payload, raw JSON                         pt    when progress last went into the history
m     metadata, raw JSON                        r     result, raw JSON
o     packed Options                            f     last error, raw JSON
g     digest of the submission                  fs    start of the first attempt, once it ended
u     unique key                                due   due time, server ms
t     trace parent                              b     priority before it became `solo`
at    submitted, server ms
====  =======================================  ====  ==========================================

`ready:<queue>:solo` holds tasks that may have crashed a runner: only a quarantine runner takes them.
"""

from __future__ import annotations

from taskq_core.model.task import Priority

__all__ = [
    "CATALOG",
    "CONTROL",
    "KEY_PREFIX",
    "RETURNED",
    "SOLO",
    "STREAMS",
    "WORKERS",
    "ShardKeys",
    "worker_key",
]

WORKERS = "taskq:workers"  # zset worker id -> last seen, server ms
CATALOG = "taskq:catalog"  # hash "<name>" -> JSON of the newest declaration per code version
CONTROL = "taskq:control"  # Pub/Sub: cancellations and worker commands
KEY_PREFIX = "taskq:apikey:"  # hash per API key id

GROUP = "workers"
AUDIT_GROUP = "audit"
RETURNED = "returned"  # pseudo-consumer that holds what was given back
SOLO = "solo"
STREAMS = (*Priority, SOLO)


def worker_key(worker_id: str) -> str:
    """Hash (one field `v`, JSON) with what a worker last said of itself; expires."""
    return f"taskq:worker:{worker_id}"


class ShardKeys:
    """The keys of one shard."""

    def __init__(self, shard: int = 0) -> None:
        self.shard = shard
        self.prefix = f"taskq:{{{shard_tag(shard)}}}:"
        self.events = self.prefix + "events"
        self.meta = self.prefix + "meta"
        self.due = self.prefix + "due"
        self.dead = self.prefix + "dead"
        self.parked = self.prefix + "parked"
        self.queues = self.prefix + "queues"
        self.live = self.prefix + "live"

    def ready(self, queue: str, stream: str) -> str:
        """Stream of a queue at one priority (or `solo`)."""
        return f"{self.prefix}ready:{queue}:{stream}"

    def task(self, task_id: str) -> str:
        """Hash of one task."""
        return f"{self.prefix}task:{task_id}"

    def queue(self, queue: str) -> str:
        """Hash with what operators set on a queue, and how many entries were given back."""
        return f"{self.prefix}queue:{queue}"

    def stats(self, queue: str) -> str:
        """Hash of counters of a queue."""
        return f"{self.prefix}stats:{queue}"

    def unique(self, queue: str, key: str) -> str:
        """String: the id that holds a unique key."""
        return f"{self.prefix}unique:{queue}:{key}"

    def idempotency(self, key_id: str, digest: str) -> str:
        """String: what an Idempotency-Key was used for."""
        return f"{self.prefix}idem:{key_id}:{digest}"

    def await_channel(self, client: str) -> str:
        """Channel on which one client process hears that tasks ended."""
        return f"{self.prefix}await:{client}"


def shard_tag(shard: int) -> str:
    """The hash tag of a shard. One shard is served for now: its tag is `0`."""
    if shard != 0:
        message = f"shard {shard} has no tag yet: TASKQ_SHARDS is 1"
        raise ValueError(message)
    return "0"
