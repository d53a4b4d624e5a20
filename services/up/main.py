"""`taskq up` as its user sees it: a card when all is ready, keys, and Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import setproctitle

from services.up.card import Facts, write_card
from services.up.keys import KEYS_LINE, taking_keys
from services.up.options import UpOptions
from services.up.samples import FIRST_SAMPLE
from services.up.stopping import Stopper
from services.up.system import System
from taskq_core.config import find_home
from taskq_core.errors import ConfigError
from taskq_core.log import escape, mask

__all__ = ["UpOptions", "run_up"]

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def run_up(options: UpOptions) -> int:
    """Run until a signal or `q`; answers the exit code. Raises ConfigError and its kind, Unavailable."""
    if options.no_auth and options.host not in _LOOPBACK:
        raise ConfigError("--no-auth is for a loopback address only; leave out one of --no-auth and --host")
    setproctitle.setproctitle("taskq up")
    return asyncio.run(_run(options))


async def _run(options: UpOptions) -> int:
    started = time.monotonic()
    with Stopper() as stopper:
        system = System(options, _say)
        try:
            await stopper.unless_stopped(system.start())
            if not stopper.asked:
                await _stay(system, stopper, started)
        finally:
            await _stop(system, stopper)
    return stopper.exit_code


async def _stay(system: System, stopper: Stopper, started: float) -> None:
    """Show the card and wait for the end."""
    from services.up.demo import Demo  # noqa: PLC0415  # after the start: it takes its time to import
    from services.up.victim import kill_a_runner  # noqa: PLC0415

    demo = Demo(system, _say)
    if system.health.status != "ok":
        _say(f"not all is well yet: {system.health.reason}")
    _show(write_card(_facts(system, time.monotonic() - started)))
    if system.options.demo:
        demo.toggle()
    actions = {"d": demo.toggle, "k": lambda: kill_a_runner(system, _say), "q": stopper.stop}
    with taking_keys(actions) as there:
        if there:
            _show(KEYS_LINE)
        try:
            await stopper.wait()
        finally:
            await demo.stop()


async def _stop(system: System, stopper: Stopper) -> None:
    """Stop, quickly when asked a second time."""
    if stopper.asked and system.running:
        _say("stopping; once more to stop at once")
    stopping = asyncio.create_task(system.stop())
    hurry = asyncio.create_task(stopper.wait_for_hurry())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        system.hurry()
    hurry.cancel()
    await stopping


def _facts(system: System, seconds: float) -> Facts:
    cwd = Path.cwd()
    options = system.options
    usual = Path(os.environ.get("TASKQ_HOME") or find_home(cwd)).absolute() == system.folder.path
    return Facts(
        seconds=seconds,
        home=system.folder.path,
        usual_home=usual,
        api=system.api,
        token_file=None if options.no_auth else system.folder.token_file,
        image=FIRST_SAMPLE,
        demo=options.demo,
        cwd=cwd,
    )


def _show(text: str) -> None:
    """What was asked for, on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    """A line for people while the system runs, on stderr."""
    sys.stderr.write(f"taskq: {escape(mask(text))}\n")
    sys.stderr.flush()
