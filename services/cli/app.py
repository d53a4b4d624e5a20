"""The verbs and how they are called. Each module behind it is imported when its verb runs."""

from __future__ import annotations

from typing import Any

import typer

from services.cli import admin, commands, reading, roles, scaffold

__all__ = ["build"]

_HELP = "taskq: a distributed task queue. Start everything with `taskq up`."


def build() -> Any:
    """The command with all its verbs (typer's own kind of object)."""
    app = typer.Typer(
        name="taskq",
        help=_HELP,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for module in (roles, commands, reading, admin, scaffold):
        module.add_to(app)
    return typer.main.get_command(app)
