"""What goes into a wheel, and that the lock files name no place of download."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
TOP_LEVEL = ("taskq_core", "services", "tui", "panel_app")
LOCKS = ("requirements.lock", "requirements-dev.lock", "tools/requirements-uv.lock")


def project() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def packages_in_the_tree() -> set[str]:
    return {
        ".".join(init.parent.relative_to(CHECKOUT).parts)
        for top in TOP_LEVEL
        for init in (CHECKOUT / top).rglob("__init__.py")
    }


def test_every_package_of_the_tree_is_listed_and_no_other() -> None:
    assert set(project()["tool"]["setuptools"]["packages"]) == packages_in_the_tree()


def test_every_data_file_of_a_package_is_packed() -> None:
    listed = project()["tool"]["setuptools"]["package-data"]
    packed = {
        file
        for package, patterns in listed.items()
        for pattern in patterns
        for file in CHECKOUT.joinpath(*package.split(".")).glob(pattern)
    }
    there = {
        file
        for top in TOP_LEVEL
        for file in (CHECKOUT / top).rglob("*")
        if file.is_file() and file.suffix not in {".py", ".pyc", ".md"}
    }
    assert there <= packed, "add them to [tool.setuptools.package-data]"


def test_import_rules_cover_every_top_level_package() -> None:
    ruled = set(project()["tool"]["importlinter"]["root_packages"])
    assert ruled == {name.partition(".")[0] for name in packages_in_the_tree()}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_and_no_addresses(lock: str) -> None:
    text = (CHECKOUT / lock).read_text()
    assert "://" not in text
    pinned = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert pinned
    assert all("==" in line and line.endswith("\\") for line in pinned), "every pin goes on with its hashes"


def test_both_locks_agree() -> None:
    def pins(lock: str) -> dict[str, str]:
        lines = (CHECKOUT / lock).read_text().splitlines()
        return dict(
            line.split(";")[0].rstrip(" \\").split("==")
            for line in lines
            if "==" in line and line[0] not in "# "
        )

    run, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    assert {name: dev[name] for name in run.keys() & dev.keys()} == {
        name: run[name] for name in run.keys() & dev.keys()
    }
