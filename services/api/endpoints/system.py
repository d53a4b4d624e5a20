"""The views of the whole system."""

from __future__ import annotations

from services.api.endpoints.route import Asked, NoQuery, Service
from taskq_core.read.views import CatalogList, OverviewView, QueueList, WorkerList

__all__ = ["catalog", "overview", "queues", "workers"]


async def overview(service: Service, asked: Asked[NoQuery]) -> OverviewView:  # noqa: ARG001
    """Verdict, queues, workers, rates, ledger, relay."""
    return await service.reader.overview()


async def queues(service: Service, asked: Asked[NoQuery]) -> QueueList:  # noqa: ARG001
    """Every queue."""
    return await service.reader.queues()


async def workers(service: Service, asked: Asked[NoQuery]) -> WorkerList:  # noqa: ARG001
    """Every worker that was seen lately."""
    return await service.reader.workers()


async def catalog(service: Service, asked: Asked[NoQuery]) -> CatalogList:  # noqa: ARG001
    """Every registered task with its JSON Schema, queue, retry policy and doc."""
    return await service.reader.catalog()
