"""Running systems: one for all tests that only look or submit, one of its own for a test that hurts."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.acceptance.running import Up

type StartUp = Callable[..., Up]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Up]:
    """A system that nobody may break."""
    up = Up(tmp_path_factory.mktemp("shared") / "data folder")
    try:
        yield up.start()
    finally:
        up.close()


@pytest.fixture
def start_up(tmp_path: Path) -> Generator[StartUp]:
    """Starts systems over folders of this test; they are ended with it."""
    started: list[Up] = []

    def start(name: str = "data", *flags: str, **more: object) -> Up:
        up = Up(tmp_path / name, *flags, **more)  # type: ignore[arg-type]
        started.append(up)
        return up.start()

    yield start
    for up in started:
        up.close()
