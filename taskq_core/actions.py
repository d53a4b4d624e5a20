"""Everything an operator may do, listed once: routes, verbs, key bindings and buttons are built from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from taskq_core.access.scopes import Scope
from taskq_core.client import Client
from taskq_core.errors import NotFound
from taskq_core.model.lifecycle import LIVE, State
from taskq_core.words import nearest

__all__ = ["ACTIONS", "Action", "find_action"]

type Apply = Callable[[Client, str, str, str], Awaitable[str]]
"""client, task id, actor, reason -> the task's state after it."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that may be done to one task."""

    name: str  # stable, as in REST and in the journal
    label: str  # on a button
    permission: Scope
    states: frozenset[State]  # in which it can be done
    effect: str  # a sentence that says what will happen
    apply: Apply

    def fits(self, state: State) -> bool:
        """Whether it can be done to a task in this state."""
        return state in self.states


async def _cancel(client: Client, task_id: str, actor: str, reason: str) -> str:
    return await client.cancel(task_id, actor=actor, reason=reason)


async def _retry(client: Client, task_id: str, actor: str, reason: str) -> str:
    return await client.retry(task_id, actor=actor, reason=reason)


_LISTED = (
    Action(
        name="cancel",
        label="Cancel",
        permission=Scope.OPERATE,
        states=LIVE,
        effect="A waiting task ends as cancelled at once; a running one is told to stop.",
        apply=_cancel,
    ),
    Action(
        name="retry",
        label="Retry",
        permission=Scope.OPERATE,
        states=frozenset({State.DEAD, State.CANCELLED}),
        effect="The task goes back into its queue under the same id, with all its attempts.",
        apply=_retry,
    ),
)
ACTIONS: dict[str, Action] = {action.name: action for action in _LISTED}


def find_action(name: str) -> Action:
    """The action of this name. Raises NotFound with the nearest one."""
    action = ACTIONS.get(name)
    if action is None:
        raise NotFound(f"there is no action {name[:40]!r}: {nearest(name, ACTIONS)}")
    return action
