"""The public names as a type checker sees them: tests/typing/ must pass without a remark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_typing() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--warnings", "--level", "error", "tests/typing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
