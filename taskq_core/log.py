"""Logging: one JSON object a line, or lines for people when a terminal listens.

Control characters are escaped, so that text from outside can forge no line and drive no terminal.
Passwords in addresses, API keys and `password=` pairs are masked.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any, TextIO

__all__ = ["escape", "mask", "setup_logging"]

_SECRETS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^/\s:@]*):[^/\s@]+@", re.IGNORECASE), r"\1:***@"),
    (re.compile(r"\b(tq_[A-Za-z0-9]+)_[A-Za-z0-9_-]{20,}"), r"\1_***"),
    (re.compile(r"(\b(?:password|passwd|secret|token)=)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"(\bBearer )\S+", re.IGNORECASE), r"\1***"),
)
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)  # C0, C1, invisible and direction-changing characters, lone surrogates
_USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def mask(text: str) -> str:
    """The text without the secrets that can be told by their form."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def escape(text: str) -> str:
    r"""The text on one line: control and invisible characters become visible escapes like `\x1b`."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape", "backslashreplace").decode(), text)


def setup_logging(role: str = "taskq", *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send everything to one stream (stderr): JSON, or lines for people when it is a terminal."""
    out = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(out)
    handler.setFormatter(HumanLines(role) if out.isatty() else JsonLines(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class JsonLines(logging.Formatter):
    """`{"at", "level", "role", "logger", "message", …extra, "exception"?}`; times are UTC."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object; json.dumps escapes every control character."""
        entry: dict[str, Any] = {
            "at": _stamp(record),
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name,
            "message": mask(record.getMessage()),
        }
        entry |= {key: _plain(value) for key, value in _extra(record).items()}
        if record.exc_info:
            entry["exception"] = mask(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=True, default=str)


class HumanLines(logging.Formatter):
    """`12:00:00.123 WARNING relay  message key=value`; an exception follows on lines of its own."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """A line, or several when there is an exception; each is escaped."""
        extra = "".join(f" {key}={_plain(value)}" for key, value in _extra(record).items())
        clock = _stamp(record)[11:23]
        line = f"{clock} {record.levelname:<7} {self._role}  {mask(record.getMessage())}{extra}"
        if not record.exc_info:
            return escape(line)
        trace = mask(self.formatException(record.exc_info)).splitlines()
        return "\n".join([escape(line), *(f"    {escape(part)}" for part in trace)])


def _stamp(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _USUAL}


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | None) else mask(str(value))
