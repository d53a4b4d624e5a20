"""What a key may do. Scopes are separate grants; only `admin` implies the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum

from taskq_core.errors import Forbidden, InvalidOption
from taskq_core.words import nearest

__all__ = ["Scope", "allows", "check_scopes", "require"]


class Scope(StrEnum):
    """One grant."""

    SUBMIT = "submit"  # hand in tasks
    READ = "read"  # see everything
    OPERATE = "operate"  # cancel, retry, pause and every other action
    ADMIN = "admin"  # all of it, and keys


def allows(held: Collection[Scope], needed: Scope) -> bool:
    """Whether the scopes of a key cover what is needed."""
    return needed in held or Scope.ADMIN in held


def require(held: Collection[Scope], needed: Scope) -> None:
    """Raises Forbidden, naming the scope, when it is not covered."""
    if not allows(held, needed):
        raise Forbidden(f"this key lacks the scope {needed.value!r}")


def check_scopes(names: Iterable[str]) -> frozenset[Scope]:
    """The scopes of these names. Raises InvalidOption for an unknown one, or none at all."""
    known = {scope.value for scope in Scope}
    chosen = list(names)
    for name in chosen:
        if name not in known:
            raise InvalidOption(f"unknown scope {name[:40]!r}: {nearest(name, known)}")
    if not chosen:
        raise InvalidOption(f"a key needs one scope at least: {', '.join(sorted(known))}")
    return frozenset(Scope(name) for name in chosen)
