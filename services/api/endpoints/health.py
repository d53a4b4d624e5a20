"""/health: for load balancers, which get one word, and for operators, who get the reasons."""

from __future__ import annotations

from typing import Any

import msgspec

from services.api.endpoints.route import Answer, Asked, NoQuery, Service

__all__ = ["Health", "health", "live", "ready"]


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """ok, degraded or down; the checks are shown to those who may read."""

    status: str
    checks: dict[str, Any] = {}


async def health(service: Service, asked: Asked[NoQuery]) -> Answer:
    """200 while work is accepted, 503 when the system is down."""
    view = await service.health()
    checks: dict[str, Any] = {}
    if asked.key is not None:
        checks = {
            "verdict": view.verdict.text,
            "reasons": view.verdict.reasons,
            "workers": len(view.workers),
            "unexplained": view.ledger.unexplained,
            "relay": view.relay,
        }
    level = view.verdict.level
    return Answer(body=Health(status=level, checks=checks), status=503 if level == "down" else 200)


async def live(service: Service, asked: Asked[NoQuery]) -> Health:  # noqa: ARG001
    """Whether the process answers at all."""
    return Health(status="ok")


async def ready(service: Service, asked: Asked[NoQuery]) -> Answer:  # noqa: ARG001
    """Whether requests should come here: not while Redis is away or the process drains."""
    level = (await service.health()).verdict.level if service.accepting else "down"
    return Answer(body=Health(status=level), status=503 if level == "down" else 200)
