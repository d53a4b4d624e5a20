"""From the command line to an exit code: every failure is one line on stderr that says what to do.

Exit codes: 0 done · 1 failed, or not ok · 2 usage or configuration · 3 not found · 4 refused ·
130 interrupted. `TASKQ_DEBUG=1` shows the traceback of a failure as well.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

__all__ = ["FAILED", "MISSING", "REFUSED", "USAGE", "main"]

FAILED, USAGE, MISSING, REFUSED = 1, 2, 3, 4
INTERRUPTED = 130
_LONGEST = 2000  # characters of a message from outside


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; answers the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to fail
    debug = bool(os.environ.pop("TASKQ_DEBUG", ""))  # no setting: the rest of taskq does not know it
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001  # the last line of defence
        if debug:
            traceback.print_exc()
        code, message = explain(error)
        say(message)
        return code


def _run(arguments: list[str]) -> int:
    from services.cli.app import build

    answer = build().main(args=arguments, prog_name="taskq", standalone_mode=False)
    sys.stdout.flush()
    return answer if isinstance(answer, int) else 0


def explain(error: Exception) -> tuple[int, str]:
    """Exit code and message of a failure."""
    from taskq_core.errors import ConfigError, NotFound, Refused, TaskqError

    for kind, code in ((NotFound, MISSING), (Refused, REFUSED), (ConfigError, USAGE), (TaskqError, FAILED)):
        if isinstance(error, kind):
            return code, str(error)
    usage = _usage_message(error)
    if usage:
        return USAGE, usage
    if isinstance(error, TimeoutError):
        return FAILED, str(error) or "it took too long"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return FAILED, f"{place}{error.strerror or error}"
    if type(error).__name__ == "Abort":
        return FAILED, "aborted"
    return FAILED, f"{type(error).__name__}: {error} (TASKQ_DEBUG=1 shows where)"


def _usage_message(error: Exception) -> str:
    """What a wrong command line is told; empty when the failure is another."""
    from typer import TyperException

    if not isinstance(error, TyperException):
        return ""
    context = getattr(error, "ctx", None)
    verb = getattr(context, "command_path", "taskq")
    text = getattr(error, "format_message", error.__str__)()
    return f"{str(text).rstrip('.')}; see {verb} --help"


def say(message: str) -> None:
    """One line for people on stderr, whatever the message holds."""
    from taskq_core.log import escape, mask

    line = " ".join(message.split())[:_LONGEST]
    print(f"taskq: {escape(mask(line))}", file=sys.stderr)
