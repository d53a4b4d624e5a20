"""Homes for rows that will come, and for those that came too early for theirs."""

from __future__ import annotations

import logging
from datetime import date

import msgspec
import psycopg

from taskq_core.audit.queries import query

__all__ = ["DAYS_AHEAD", "Made", "make_partitions"]

DAYS_AHEAD = 10  # a week, and room for a relay that stands still over a weekend

log = logging.getLogger("taskq.relay")


class Made(msgspec.Struct, frozen=True):
    """A partition that was missing."""

    parent: str
    starts: date
    moved: int  # rows that had fallen into DEFAULT


async def make_partitions(
    connection: psycopg.AsyncConnection[tuple[object, ...]], today: date, days_ahead: int = DAYS_AHEAD
) -> list[Made]:
    """Make what is missing from yesterday on. Rows that had no home are moved and logged as an alarm."""
    values = {"today": today, "days_ahead": days_ahead}
    cursor = await connection.execute(query("make_partitions"), values)
    made = [
        Made(str(parent), starts, int(str(moved)))
        for parent, starts, moved in await cursor.fetchall()
        if isinstance(starts, date)
    ]
    for one in made:
        if one.moved:
            log.warning("%d rows of %s had no partition until now (%s)", one.moved, one.parent, one.starts)
    return made
