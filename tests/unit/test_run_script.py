"""`./run`: which Python it takes, what it passes on, and what it says when it cannot go on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.wait import eventually_sync

CHECKOUT = Path(__file__).parents[2]
TOOLS = ("sh", "cat", "cksum", "dirname", "mkdir", "readlink", "sort", "tr", "uname")

GOOD = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
OLD = "#!/bin/sh\nexit 1\n"  # what our question for the version gives on an old one
SHIM = "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n"


class Machine:
    """A PATH that holds the needed tools and nothing else, a home, and a checkout."""

    def __init__(self, tmp_path: Path) -> None:
        self.bin = tmp_path / "bin"
        self.home = tmp_path / "home"
        self.checkout = tmp_path / "check out"
        for folder in (self.bin, self.home, self.checkout / "tools"):
            folder.mkdir(parents=True)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found
            (self.bin / tool).symlink_to(found)
        for name in ("run", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
            shutil.copy(CHECKOUT / name, self.checkout)
        for tool_file in (CHECKOUT / "tools").glob("*.*"):
            shutil.copy(tool_file, self.checkout / "tools")

    def add(self, path: Path, text: str) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def environment(self, **extra: str) -> dict[str, str]:
        return {"PATH": str(self.bin), "HOME": str(self.home)} | extra

    def shell(self, command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a function of tools/setup.sh."""
        program = f'set -eu; root="{self.checkout}"; . "$root/tools/setup.sh"; {command}'
        return self.call([str(self.bin / "sh"), "-c", program], None, **extra)

    def call(
        self, command: list[str], cwd: Path | None = None, /, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment(**extra), cwd=cwd, capture_output=True, text=True, check=False
        )

    def set_up_by_hand(self) -> None:
        """A `.venv` that passes as fit, whose Python prints what it is given."""
        python = self.checkout / ".venv" / "bin" / "python"
        self.add(python, '#!/bin/sh\n[ "$1" != -c ] || exit 0\nshift\nprintf "<%s>" "$@"\n')
        key = self.shell("environment_key run").stdout
        (self.checkout / ".venv" / "run.stamp").write_text(key)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def found(machine: Machine, **extra: str) -> str | None:
    answer = machine.shell("find_interpreter", **extra)
    assert answer.stderr == ""
    return answer.stdout.strip() if answer.returncode == 0 else None


def test_the_named_interpreter_comes_first(machine: Machine) -> None:
    machine.add(machine.bin / "python3.14", GOOD)
    mine = machine.add(machine.home / "my python", GOOD)
    assert found(machine, TASKQ_PYTHON=mine) == mine
    assert found(machine) == "python3.14"


def test_a_shim_that_fails_is_passed_over_in_silence(machine: Machine) -> None:
    machine.add(machine.bin / "python3.14", SHIM)
    machine.add(machine.bin / "python3.13", SHIM)
    machine.add(machine.bin / "python3.12", OLD)
    machine.add(machine.bin / "python3", GOOD)
    assert found(machine) == "python3"


@pytest.mark.parametrize("variable", ["PYENV_ROOT", "HOME"])
def test_pyenvs_versions_are_tried_newest_first(machine: Machine, variable: str) -> None:
    machine.add(machine.bin / "python3", SHIM)
    root = machine.home / ".pyenv" if variable == "HOME" else machine.home / "py env"
    for version, text in (
        ("3.9.18", OLD),
        ("3.12.1", GOOD),
        ("3.13.0", GOOD),
        ("3.14.1", SHIM),
        ("pypy3", OLD),
    ):
        machine.add(root / "versions" / version / "bin" / "python3", text)
    extra = {} if variable == "HOME" else {"PYENV_ROOT": str(root)}
    assert found(machine, **extra) == str(root / "versions" / "3.13.0" / "bin" / "python3")


def test_no_home_is_no_problem(machine: Machine) -> None:
    machine.add(machine.bin / "python3", GOOD)
    answer = machine.shell("unset HOME; find_interpreter; choose_caches; echo $UV_CACHE_DIR")
    assert answer.stdout.splitlines() == ["python3", f"{machine.checkout}/.venv/cache/uv"]
    assert answer.stderr == ""


def test_without_any_python_one_line_says_what_to_do(machine: Machine) -> None:
    machine.add(machine.bin / "python3", OLD)
    answer = machine.call([str(machine.checkout / "run")])
    assert answer.returncode == 1
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("taskq: Python 3.12 or newer is needed: install one")


def test_uv_is_asked_for_a_python_when_there_is_none(machine: Machine) -> None:
    brought = machine.add(machine.home / "brought", GOOD)
    machine.add(
        machine.bin / "uv",
        f'#!/bin/sh\necho "$UV_PYTHON_INSTALL_DIR" >&2\n[ "$2" != find ] || echo "{brought}"\n',
    )
    answer = machine.shell("install_interpreter")
    assert answer.stdout.strip() == brought
    assert f"{machine.checkout}/.python" in answer.stderr  # inside the checkout, not in the user's home


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ([], ["up"]),
        (["--demo"], ["up", "--demo"]),
        (["--port", "0"], ["up", "--port", "0"]),
        (["status"], ["status"]),
        (["submit", "x", "a=b c", ""], ["submit", "x", "a=b c", ""]),
    ],
)
def test_arguments_are_passed_on(
    machine: Machine, tmp_path: Path, given: list[str], passed: list[str]
) -> None:
    machine.set_up_by_hand()
    answer = machine.call([str(machine.checkout / "run"), *given], tmp_path)
    assert answer.stderr == ""
    assert answer.stdout == "".join(f"<{word}>" for word in passed)


def test_it_works_through_links(machine: Machine) -> None:
    machine.set_up_by_hand()
    (machine.home / "first").symlink_to(machine.checkout / "run")
    (machine.home / "second").symlink_to("first")
    answer = machine.call(["sh", str(machine.home / "second"), "status"], Path("/"))
    assert answer.stdout == "<status>"


def test_a_changed_lock_makes_the_stamp_stale(machine: Machine) -> None:
    machine.set_up_by_hand()
    with (machine.checkout / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    answer = machine.call([str(machine.checkout / "run"), "status"])
    assert answer.returncode == 1  # it went looking for a Python, and there is none here
    assert "Python 3.12" in answer.stderr


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("taskq_setup", CHECKOUT / "tools" / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("user", [0, 1000])
def test_debians_missing_part_of_python(
    user: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = tmp_path / "calls"
    apt = tmp_path / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$@" >>"{calls}"\n')
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    setup = load_setup()
    monkeypatch.setattr(setup.importlib.util, "find_spec", lambda _: None)
    package = f"python3.{sys.version_info.minor}-venv"
    if user == 0:
        setup._need_ensurepip("python3")
        assert calls.read_text().splitlines() == [
            "-qq update",
            f"-qq install -y --no-install-recommends {package}",
        ]
    else:
        with pytest.raises(SystemExit):
            setup._need_ensurepip("python3")
        assert capsys.readouterr().err.endswith(f"run: sudo apt-get install -y {package}\n")
        assert not calls.exists()


@pytest.mark.slow
def test_two_first_starts_at_once_and_a_quick_third(tmp_path: Path) -> None:
    """The real thing, from nothing: both set-ups end well, and nothing is written to HOME but caches."""
    checkout, home = tmp_path / "check out", tmp_path / "home"
    home.mkdir()
    (checkout / "services").mkdir(parents=True)
    for name in ("run", "pyproject.toml", "requirements.lock"):
        shutil.copy(CHECKOUT / name, checkout)
    shutil.copytree(CHECKOUT / "tools", checkout / "tools")
    cli = "import sys, redis, psycopg, tornado, PIL\n\ndef main():\n    print('ran', *sys.argv[1:])\n"
    (checkout / "services" / "cli.py").write_text(cli)
    (checkout / "services" / "__init__.py").touch()
    environment = os.environ | {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "TASKQ_PYTHON": getattr(sys, "_base_executable", sys.executable),
    }
    environment.pop("XDG_CACHE_HOME", None)

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [checkout / "run", "status"],
            env=environment,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    both = [start(), start()]
    for process in both:
        out, err = process.communicate(timeout=150)
        assert (process.returncode, out) == (0, "ran status\n"), err
    assert {entry.name for entry in home.iterdir()} <= {".cache"}
    third = start()
    eventually_sync(lambda: third.poll() is not None, "the third start to be quick", timeout=3)
    out, err = third.communicate()
    assert (out, err) == ("ran status\n", "")
