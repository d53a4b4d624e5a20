"""Log lines: forged by nobody, telling no secret (bad input B39)."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Generator

import pytest

from taskq_core.log import escape, mask, setup_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Generator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:hunter2@host/0", "redis://:***@host/0"),
        ("rediss://me:hunter2@host", "rediss://me:***@host"),
        ("redis+sentinel://:hunter2@a,b/x", "redis+sentinel://:***@a,b/x"),
        ("unix:///run/x.sock?password=hunter2&db=0", "unix:///run/x.sock?password=***&db=0"),
        ("key tq_0123456789ab_" + "A" * 43 + ".", "key tq_0123456789ab_***."),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("https://example.org/a:b@c", "https://example.org/a:b@c"),
        ("at 12:30 me@example.org", "at 12:30 me@example.org"),
    ],
)
def test_mask(text: str, shown: str) -> None:
    assert mask(text) == shown


def test_escape() -> None:
    assert escape("a\r\nb\x1b[31m\x9b\u202e\u200b\ud800\x7f") == r"a\r\nb\x1b[31m\x9b\u202e\u200b\ud800\x7f"
    assert escape("plain, ü and \N{GRINNING FACE}") == "plain, ü and \N{GRINNING FACE}"


def test_json_lines() -> None:
    out = io.StringIO()
    setup_logging("relay", stream=out)
    try:
        raise ValueError("redis://:hunter2@h\x1b")
    except ValueError:
        logging.getLogger("x").exception("a\n%s", "b\x1b", extra={"queue": "q\n", "n": 3})
    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["message"], entry["queue"], entry["n"]) == ("a\nb\x1b", "q\n", 3)
    assert (entry["level"], entry["role"], entry["logger"]) == ("error", "relay", "x")
    assert entry["at"].endswith("Z")
    assert "hunter2" not in line
    assert "\x1b" not in line


def test_lines_for_people() -> None:
    out = Terminal()
    setup_logging("api", stream=out)
    logging.getLogger("x").warning("a\n%s", "\x1b[31m", extra={"queue": "q"})
    try:
        raise ValueError("two\nlines\x1b")
    except ValueError:
        logging.getLogger("x").exception("broken")
    first, second, *trace = out.getvalue().splitlines()
    assert first.endswith(r"WARNING api  a\n\x1b[31m queue=q")
    assert second.endswith("ERROR   api  broken")
    assert all(line.startswith("    ") for line in trace)
    assert "\x1b" not in out.getvalue()
