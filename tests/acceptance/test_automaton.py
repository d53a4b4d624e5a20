"""The oracle itself: it must find each fault that it is there for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from taskq_core.model.lifecycle import Kind, State
from taskq_core.model.task import Options
from tests.support.automaton import Report, Seen, check_accepted, check_numbers, judge

GOOD = ("submitted", "started", "retrying", "promoted", "started", "succeeded")


def chain(*kinds: str, gap_ms: int = 1000, counted: bool = True) -> list[Seen]:
    """Events of one task, so many milliseconds apart."""
    detail = {} if counted else {"counted": False}
    return [
        Seen(1, n, n * gap_ms, "t", Kind(kind), 1, 1, detail if kind in {"retrying", "dead"} else {})
        for n, kind in enumerate(kinds, 1)
    ]


def faults(events: Sequence[Seen], options: Options | None = None) -> list[str]:
    """What the oracle says of a task."""
    report = Report()
    judge("t", events, options or Options(max_attempts=2), report)
    return report.faults


def test_a_good_life_has_no_fault() -> None:
    assert faults(chain(*GOOD)) == []
    assert faults(chain("submitted", "cancelled", "retried", *GOOD[1:])) == []
    assert faults(chain("submitted", "started", "released", "started", "fenced", "succeeded")) == []


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (("submitted", "succeeded"), "cannot happen"),
        (("submitted", "started", "succeeded", "succeeded"), "cannot happen"),
        (("submitted", "started", "succeeded", "started"), "cannot happen"),
        (("submitted", "started", "started"), "cannot happen"),
        (("started", "succeeded"), "cannot happen"),
        (("submitted", "submitted"), "cannot happen"),
        (
            ("submitted", "started", "retrying", "promoted", "started", "retrying", *GOOD[3:]),
            "3 attempts of 2",
        ),
    ],
)
def test_a_bad_life_is_found(kinds: tuple[str, ...], words: str) -> None:
    assert words in " ".join(faults(chain(*kinds, gap_ms=10_000)))


def test_a_start_before_its_pause_is_over_is_found() -> None:
    assert "before 1000 ms" in " ".join(faults(chain(*GOOD, gap_ms=400)))
    assert faults(chain(*GOOD, gap_ms=500)) == []


def test_a_shared_crash_costs_no_attempt() -> None:
    shared = chain(
        "submitted", *("started", "retrying", "promoted") * 3, "started", "succeeded", counted=False
    )
    assert faults(shared) == []


def test_a_hole_in_the_count_is_found() -> None:
    whole, report = chain(*GOOD), Report()
    check_numbers(whole, report)
    assert report.faults == []
    check_numbers(whole[:2] + whole[3:], report)
    assert "missing" in report.faults[0]


def test_a_lost_task_and_one_that_never_ends_are_found() -> None:
    report = Report(states={"t": State.QUEUED}, chains={"t": chain("submitted")})
    check_accepted(["t", "gone"], report, all_ended=True)
    assert "1 accepted tasks are lost, like gone" in report.faults
    assert "1 accepted tasks have not ended" in " ".join(report.faults)
