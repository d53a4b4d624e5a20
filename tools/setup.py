"""Bring `.venv` up to date: called by tools/setup.sh when its stamp no longer fits. Standard library only.

Two of them may run at once on a fresh checkout: the second waits, and finds the work done.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_LOCK = "setup.lock"
_LAUNCHER = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys

from {module} import {function}

sys.exit({function}())
"""


def main() -> None:
    """Arguments: the checkout, `run` or `test`, the interpreter as it was asked for, the stamp to leave."""
    root, target, interpreter, key = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    venv = root / ".venv"
    venv.mkdir(exist_ok=True)
    with (venv / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = venv / f"{target}.stamp"
        if _read(stamp) == key and _fits(venv, root, interpreter):
            return
        stamp.unlink(missing_ok=True)
        _make(venv, root, interpreter)
        _install(venv, _locks(root, target))
        _link(venv, root)
        stamp.write_text(key + "\n", encoding="utf-8")


def _make(venv: Path, root: Path, interpreter: str) -> None:
    """Keep an environment that works and belongs here; else make a new one in its place."""
    if _fits(venv, root, interpreter):
        _remember(venv, root, interpreter)
        return
    _tell("making .venv and installing the locked packages (first start only)")
    for entry in venv.iterdir():
        if entry.name in {_LOCK, "cache"}:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    base = getattr(sys, "_base_executable", sys.executable)  # not the one of an activated .venv
    uv = shutil.which("uv")
    if uv:
        _run(uv, "venv", "--quiet", "--no-project", "--allow-existing", "--python", base, venv)
    else:
        _need_ensurepip(base)
        _run(base, "-m", "venv", venv)
    _remember(venv, root, interpreter)


def _fits(venv: Path, root: Path, interpreter: str) -> bool:
    """Whether it runs, was made in this place (scripts hold paths), and by the interpreter asked for."""
    same = "TASKQ_PYTHON" not in os.environ or _read(venv / "interpreter") in {"", interpreter}
    return same and _read(venv / "home") in {"", str(root)} and _runs(venv / "bin" / "python")


def _remember(venv: Path, root: Path, interpreter: str) -> None:
    (venv / "home").write_text(f"{root}\n", encoding="utf-8")
    (venv / "interpreter").write_text(f"{interpreter}\n", encoding="utf-8")


def _need_ensurepip(base: str) -> None:
    """Debian keeps a part of Python in a package of its own: root gets it, others are told its name."""
    if importlib.util.find_spec("ensurepip") is not None:
        return
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if shutil.which("apt-get") is None:
        _fail(f"{base} lacks ensurepip: install it, or name another Python in TASKQ_PYTHON")
    if os.geteuid() != 0:
        _fail(f"{base} lacks ensurepip; run: sudo apt-get install -y {package}")
    _tell(f"installing {package}")
    _run("apt-get", "-qq", "update")
    _run("apt-get", "-qq", "install", "-y", "--no-install-recommends", package)


def _locks(root: Path, target: str) -> list[Path]:
    locks = [root / "requirements.lock"]
    return [*locks, root / "requirements-dev.lock"] if target == "test" else locks


def _install(venv: Path, locks: list[Path]) -> None:
    """Install exactly the locked packages: with uv, or more slowly with pip where uv cannot."""
    python = venv / "bin" / "python"
    what = [
        "--quiet",
        "--require-hashes",
        "--only-binary",
        ":all:",
        *(part for lock in locks for part in ("-r", lock)),
    ]
    uv = _find_uv(venv, locks[0].parent / "tools" / "requirements-uv.lock")
    if uv and _succeeds(uv, "pip", "install", "--python", python, *what):
        return
    if uv:  # its own certificates do not fit every network; older releases know the second name only
        os.environ |= {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
        if _succeeds(uv, "pip", "install", "--python", python, *what):
            return
    if not _succeeds(python, "-m", "pip", "--version"):
        _run(python, "-m", "ensurepip")
    _run(python, "-m", "pip", "install", "--disable-pip-version-check", *what)


def _find_uv(venv: Path, lock: Path) -> str | None:
    own = venv / "bin" / "uv"
    if not own.exists():
        found = shutil.which("uv")
        if found:
            return found
        pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if not _succeeds(*pip, "--require-hashes", "-r", lock):
            return None
    return str(own)


def _link(venv: Path, root: Path) -> None:
    """Make the checkout importable and `taskq` callable, as an editable install would, but build nothing."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    packages = next(venv.glob("lib/python3.*/site-packages"))
    for old in packages.glob(f"{name.replace('-', '_')}-*.dist-info"):
        shutil.rmtree(old)
    info = packages / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    scripts = "".join(f"{script} = {entry}\n" for script, entry in project["scripts"].items())
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )
    (info / "INSTALLER").write_text("taskq-checkout\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{scripts}", encoding="utf-8")
    (info / "RECORD").write_text("", encoding="utf-8")
    (packages / "taskq_checkout.pth").write_text(f"{root}\n", encoding="utf-8")
    for script, entry in project["scripts"].items():
        module, _, function = entry.partition(":")
        file = venv / "bin" / script
        file.write_text(
            _LAUNCHER.format(python=venv / "bin" / "python", module=module, function=function),
            encoding="utf-8",
        )
        file.chmod(0o755)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").rstrip("\n")
    except OSError:
        return ""


def _runs(python: Path) -> bool:
    return _succeeds(python, "-c", "import sys; sys.exit(sys.version_info < (3, 12))")


def _succeeds(*command: str | Path) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        _fail(f"`{_short(command)}` failed (exit code {done.returncode})")


def _short(command: Sequence[str | Path]) -> str:
    return " ".join(map(str, command[:4]))


def _tell(text: str) -> None:
    print(f"taskq: {text}", file=sys.stderr, flush=True)


def _fail(text: str) -> NoReturn:
    _tell(text)
    sys.exit(1)


if __name__ == "__main__":
    main()
