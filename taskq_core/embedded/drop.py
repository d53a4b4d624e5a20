"""The last step before a server's own program: runs by itself, imports nothing of taskq.

Called as `python -I -S drop.py SPEC`, SPEC being JSON (see `Spec`). It writes its process id, leaves root if
the server refuses to run as root, ties its life to its parent's, and becomes the server by exec.

A small program instead of `preexec_fn`: no Python code runs between fork and exec of a process with threads.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypedDict, cast

CANNOT_DROP = 77
"""Exit code when the server must not run as this user and no other user can be taken on."""

_PR_SET_PDEATHSIG = 1


class Spec(TypedDict):
    """What to start, and how."""

    argv: list[str]
    parent: int
    """Process id of the caller; the server ends when it does (Linux)."""
    death_signal: int
    """The signal that the server gets when its parent is gone: one that makes it stop cleanly."""
    pid_fd: int
    """An open, locked file: gets the process id; stays open, so the lock tells that the server lives."""
    unprivileged: bool
    """The server refuses to run as root, and needs a user with a name."""
    own: list[str]
    """Folders (and files) that the server needs for itself."""
    home: str
    """The data folder around them."""


def main() -> None:
    """Do the steps in order; a failure is one line on stderr and an exit code."""
    spec = cast(Spec, json.loads(sys.argv[1]))
    os.umask(0o077)
    os.ftruncate(spec["pid_fd"], 0)
    os.pwrite(spec["pid_fd"], f"{os.getpid()}\n".encode(), 0)
    if spec["unprivileged"]:
        _take_a_plain_user(spec)
    _die_with(spec["parent"], spec["death_signal"])
    os.execv(spec["argv"][0], spec["argv"])


def _take_a_plain_user(spec: Spec) -> None:
    user = os.geteuid()
    if user != 0 and _has_name(user):
        return
    nobody = _nobody()
    if nobody is None:
        _fail("no user `nobody` to run PostgreSQL as; start taskq as a normal user")
    if _in_a_fork(lambda: _enter_namespace(nobody)):
        _give(spec["own"], user, os.getegid())
        _enter_namespace(nobody)
    elif user == 0:
        _become(nobody, spec)
    else:
        _fail(f"user id {user} has no name on this machine; PostgreSQL needs one: add a user with this id")


def _has_name(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def _nobody() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        return None


def _in_a_fork(step: Callable[[], None]) -> bool:
    """Whether a step works, tried in a child so that a half-done one leaves no trace here."""
    child = os.fork()
    if child == 0:
        try:
            step()
        except (OSError, AttributeError):
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _enter_namespace(nobody: pwd.struct_passwd) -> None:
    """Be `nobody` inside a user namespace of our own; outside, files still belong to the present user.

    It works with the data inside a home that only its owner may enter, and creates no user. Linux only;
    containers and some distributions forbid it (OSError).
    """
    user, group = os.geteuid(), os.getegid()
    os.unshare(os.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{nobody.pw_gid} {group} 1", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{nobody.pw_uid} {user} 1", encoding="ascii")


def _become(nobody: pwd.struct_passwd, spec: Spec) -> None:
    """Give the server's folders to `nobody` and become that user for good."""
    _give(spec["own"], nobody.pw_uid, nobody.pw_gid)
    for folder in {spec["home"], *(str(Path(own).parent) for own in spec["own"])}:
        path = Path(folder)
        path.chmod(path.stat().st_mode | 0o011)  # may be passed through, not listed
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    readable = os.access(spec["argv"][0], os.X_OK)
    if not readable or not all(os.access(own, os.W_OK) for own in spec["own"]):
        place = spec["home"] if readable else spec["argv"][0]
        _fail(
            f"PostgreSQL refuses to run as root, and user `nobody` cannot reach {place}; "
            "start taskq as a normal user, or choose a folder that others may pass with --data"
        )


def _give(places: list[str], user: int, group: int) -> None:
    """Make files and folders belong to a user; nothing to do below a folder that already does."""
    for place in places:
        if Path(place).stat().st_uid == user:
            continue
        for root, folders, files in os.walk(place):
            for name in folders + files:
                os.chown(os.path.join(root, name), user, group, follow_symlinks=False)  # noqa: PTH118 (quick)
        os.chown(place, user, group)  # last: it says that all below is done


def _die_with(parent: int, death_signal: int) -> None:
    """Ask Linux for a signal at the parent's death; elsewhere the next start cleans up what was left.

    This must come last: changing the user or the namespace forgets the request.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)


def _fail(reason: str) -> NoReturn:
    sys.stderr.write(f"taskq: {reason}\n")
    sys.exit(CANNOT_DROP)


if __name__ == "__main__":
    main()
