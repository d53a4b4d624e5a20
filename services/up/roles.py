"""What `taskq up` runs beside the servers: API, relay and worker, each a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from services.up.options import UpOptions
from services.up.process import Role
from taskq_core.config import PREFIX, Settings

__all__ = ["SAMPLES", "api_role", "demo_role", "relay_role", "worker_role"]

SAMPLES = "services.tasks"  # the sample tasks, always registered

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def api_role(options: UpOptions, settings: Settings, port: int) -> Role:
    """The REST API."""
    flags = ["--host", options.host, "--port", str(port)]
    return _role("api", [*flags, *(["--no-auth"] if options.no_auth else [])], settings)


def relay_role(settings: Settings) -> Role:
    """The relay."""
    return _role("relay", [], settings)


def worker_role(options: UpOptions, settings: Settings) -> Role:
    """The worker, with the sample tasks; it needs no way into the history."""
    modules = dict.fromkeys((SAMPLES, *settings.import_modules, *options.imports))
    flags = [part for module in modules for part in ("--import", module)]
    flags += ["--processes", str(options.workers), "--grace", f"{options.grace:g}"]
    return _role("worker", [*flags, *(["--reload"] if options.reload else [])], settings, history=False)


def demo_role(settings: Settings, site_port: int) -> Role:
    """The demo load and its website."""
    return _role("demo-load", ["--site-port", str(site_port)], settings, history=False)


def _role(name: str, flags: list[str], settings: Settings, *, history: bool = True) -> Role:
    argv = [sys.executable, "-P", "-m", "services.cli", name, *flags]
    return Role(name, argv, _environment(settings, history=history))


def _environment(settings: Settings, *, history: bool) -> dict[str, str]:
    """Ours, with the settings that `up` found or made in place of what the user gave."""
    told: Mapping[str, str] = {
        "REDIS_URL": settings.redis_url,
        "DATABASE_URL": settings.database_url if history else "",
        "HOME": str(settings.home),
        "LEASE": f"{settings.lease:g}",
        "RELEASE": settings.release,
        "TRACE_URL": settings.trace_url,
        "SCRAPE_ALLOW": ",".join(settings.scrape_allow),
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    paths = [str(_PACKAGE_ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    ours = {PREFIX + name: value for name, value in told.items() if value}
    return kept | ours | {"PYTHONPATH": os.pathsep.join(paths)}
