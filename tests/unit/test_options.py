"""Bad input B7 and B8: options of a submission, and what becomes of good ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskq_core.errors import InvalidOption
from taskq_core.model.options import CallOptions, check_options
from taskq_core.model.order import Order, build, make_defaults
from taskq_core.model.retry import Retry
from taskq_core.model.task import Priority, unpack_options

NOW = 1_800_000_000_000
DEFAULTS = make_defaults("images", Priority.NORMAL, Retry(), 60.0, 300.0)
ID = "0198c0de-0000-7000-8000-000000000000"


def built(**options: Any) -> Any:
    return build(Order("image.resize", b'{"a":1}', DEFAULTS, check_options(options)), ID, NOW)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"prority": "high"}, "unknown option 'prority': did you mean 'priority'"),
        ({"xyz": 1}, "known are backoff, delay"),
        ({"priority": "urgent"}, "priority must be high, normal, low, not 'urgent'"),
        ({"delay": -1}, "delay .* at least 0"),
        ({"delay": 1e18}, "delay .* at most"),
        ({"delay": float("nan")}, "delay .* not nan"),
        ({"delay": "5"}, "delay: Expected `float"),
        ({"delay": True}, "delay: Expected `float"),
        ({"delay": 1, "run_at": "2030-01-01T00:00:00Z"}, "not both"),
        ({"run_at": "1970-01-01T00:00:00Z"}, "more than 90 days"),
        ({"run_at": "9999-12-31T00:00:00Z"}, "more than 90 days"),
        ({"run_at": "2027-01-15T08:00:00"}, "RFC 3339 with a zone"),
        ({"run_at": "tomorrow"}, "RFC 3339 with a zone"),
        ({"run_at": 1_800_000_000}, "run_at: Expected `str"),
        ({"max_attempts": 0}, "max_attempts must be at least 1"),
        ({"max_attempts": 10**9}, "max_attempts .* at most 100"),
        ({"max_attempts": 2.5}, "max_attempts: Expected `int"),
        ({"backoff": {"base": -1}}, "base must lie between"),
        ({"backoff": {"cap": 1e9}}, "cap must lie between"),
        ({"backoff": {"factr": 2}}, "factr"),
        ({"timeout": 0}, "timeout must be above 0"),
        ({"timeout": 86_401}, "timeout .* at most 86400"),
        ({"timeout": float("inf")}, "timeout"),
        ({"result_ttl": -1}, "result_ttl"),
        ({"unique_key": ""}, "1 to 200 characters"),
        ({"unique_key": "x" * 201}, "1 to 200 characters"),
        ({"unique_key": "a\nb"}, "control characters"),
        ({"unique_key": "a\0b"}, "control characters"),
        ({"unique_key": "a\x85b"}, "control characters"),
        ({"unique_key": "\ud800"}, "control characters"),
        ({"metadata": [1]}, "metadata: Expected `object"),
        ({"metadata": {"a": "x" * 8192}}, "metadata has .* the limit is 8192"),
        ({"metadata": {"a": float("nan")}}, "metadata: NaN"),
        ({"metadata": {"a": "\0"}}, "metadata: .*U\\+0000"),
        *(
            ({"queue": queue}, "queue")
            for queue in ["a{b}", "a:b", "*", "a\n", "x" * 10_000, "\N{GRINNING FACE}", "../a", "", "A", "-a"]
        ),
    ],
)
def test_refuses_and_names_the_option(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        built(**options)


def test_nothing_given_is_nothing() -> None:
    assert check_options({}) is None
    assert check_options({"queue": None, "delay": None}) is None


def test_accepts_the_bounds() -> None:
    checked = check_options(
        {
            "delay": 90 * 86_400,
            "max_attempts": 100,
            "timeout": 86_400,
            "unique_key": "x" * 200,
            "result_ttl": 0,
        }
    )
    assert checked == CallOptions(
        delay=90 * 86_400, max_attempts=100, timeout=86_400, unique_key="x" * 200, result_ttl=0
    )


def test_python_values_become_plain_ones() -> None:
    moment = datetime(2027, 1, 15, 9, 0, tzinfo=UTC)
    assert check_options({"run_at": moment}) == CallOptions(run_at="2027-01-15T09:00:00+00:00")
    assert check_options({"delay": timedelta(minutes=2)}) == CallOptions(delay=120.0)


def test_defaults_hold_where_nothing_is_given() -> None:
    plain = built()
    assert (plain.queue, plain.priority, plain.options) == ("images", "normal", DEFAULTS.packed)
    assert unpack_options(plain.options).timeout == 60.0


def test_given_options_win() -> None:
    made = built(
        queue="fast", priority="high", delay=1.5, max_attempts=7, backoff={"base": 0.5}, metadata={"u": 1}
    )
    assert (made.queue, made.priority, made.delay_ms, made.metadata) == ("fast", "high", 1500, '{"u":1}')
    options = unpack_options(made.options)
    assert (options.max_attempts, options.base, options.factor, options.timeout) == (7, 0.5, 2.0, 60.0)


def test_run_at_becomes_server_milliseconds() -> None:
    assert built(run_at="2027-01-15T08:00:01.250Z").due_ms == NOW + 1250


def test_digest_tells_requests_apart() -> None:
    digests = {
        built(**options).digest
        for options in [
            {},
            {"queue": "fast"},
            {"unique_key": "k"},
            {"delay": 1},
            {"delay": 2},
            {"priority": "high"},
            {"metadata": {"a": 1}},
        ]
    }
    assert len(digests) == 7
    assert built(metadata={"a": 1, "b": 2}).digest == built(metadata={"b": 2, "a": 1}).digest
