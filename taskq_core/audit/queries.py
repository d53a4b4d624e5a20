"""Named queries, read once from `sql/queries/*.sql`.

A file holds blocks. Each begins with `-- name: <name>` and a comment line that tells its purpose::

    -- name: task_by_id
    -- One task.
    SELECT …
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import LiteralString, cast

__all__ = ["migration_files", "query"]

_BLOCK = re.compile(r"^-- name: (\w+)\n-- \S.*\n", re.MULTILINE)


def _folder(name: str) -> list[Traversable]:
    folder = resources.files(__package__ or __name__).joinpath("sql", name)
    files = (entry for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return sorted(files, key=lambda entry: entry.name)


@cache
def _all() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in _folder("queries"):
        pieces = _BLOCK.split(file.read_text("utf-8"))
        for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
            if name in found:
                raise ValueError(f"the query {name} is defined twice; once in {file.name}")
            found[name] = body.strip().removesuffix(";")
    return found


def query(name: str) -> LiteralString:
    """The text of a query. It comes from our own files, which is what LiteralString stands for."""
    return cast(LiteralString, _all()[name])


def migration_files() -> list[Traversable]:
    """The migrations, oldest first."""
    return _folder("migrations")
