"""The list of what operators may do."""

from __future__ import annotations

import pytest

from taskq_core.access import Scope
from taskq_core.actions import ACTIONS, find_action
from taskq_core.errors import NotFound
from taskq_core.model.lifecycle import ENDED, LIVE, MOVES, Kind, State


def test_every_action_says_what_it_does() -> None:
    for name, action in ACTIONS.items():
        assert action.name == name
        assert action.label
        assert action.effect.endswith(".")
        assert action.permission is Scope.OPERATE
        assert action.states


@pytest.mark.parametrize(("name", "kind"), [("cancel", Kind.CANCELLED), ("retry", Kind.RETRIED)])
def test_states_are_those_of_the_lifecycle(name: str, kind: Kind) -> None:
    allowed = {state for state, move in MOVES if move is kind}
    assert find_action(name).states == allowed


def test_what_fits() -> None:
    assert all(find_action("cancel").fits(state) for state in LIVE)
    assert not any(find_action("cancel").fits(state) for state in ENDED)
    assert find_action("retry").fits(State.DEAD)


def test_unknown_actions() -> None:
    with pytest.raises(NotFound, match="did you mean 'cancel'"):
        find_action("cancle")
