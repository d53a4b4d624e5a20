"""The card, word for word, for every place that it may be printed from."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.up.card import Facts, write_card

CHECKOUT = Path(__file__).parents[2]

CURL = (
    'curl -sH "Authorization: Bearer $(cat .taskq/token)" '
    "-H 'Content-Type: application/json' http://127.0.0.1:8000/api/tasks "
    """-d '{"name":"image.resize","payload":{"source":"harbour.jpg","sizes":[[320,320],[96,96]]}}'"""
)


def facts(**changes: object) -> Facts:
    """A start in the checkout with everything as usual."""
    usual: dict[str, object] = {
        "seconds": 2.123,
        "home": CHECKOUT / ".taskq",
        "usual_home": True,
        "api": "http://127.0.0.1:8000",
        "token_file": CHECKOUT / ".taskq" / "token",
        "image": "harbour.jpg",
        "demo": False,
        "cwd": CHECKOUT,
    }
    return Facts(**usual | changes)  # type: ignore[arg-type]


def test_the_usual_card() -> None:
    assert write_card(facts()).splitlines() == [
        "taskq is ready in 2.1 s · data .taskq · stop with Ctrl-C",
        f" try it     {CURL}",
        " watch it   ./run task last --follow",
        " your own   ./run --import examples.hello --reload",
        " life       ./run --demo",
    ]


def test_no_line_to_start_the_demo_when_it_runs() -> None:
    assert "life" not in write_card(facts(demo=True))


def test_no_key_when_none_is_asked_for() -> None:
    assert "Authorization" not in write_card(facts(token_file=None))


@pytest.mark.parametrize("name", ["a b", "it's", "$(echo x)", "a;b", "-x"])
def test_folders_with_odd_names_are_quoted(tmp_path: Path, name: str) -> None:
    import subprocess

    home = tmp_path / name
    home.mkdir()
    (home / "token").write_text("tq_secret")
    card = write_card(facts(home=home, token_file=home / "token", cwd=tmp_path, usual_home=False))
    line = next(line for line in card.splitlines() if line.startswith(" try it")).removeprefix(" try it")
    echoed = subprocess.run(
        ["sh", "-c", line.strip().replace("curl", "printf '%s\\n'", 1)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Authorization: Bearer tq_secret" in echoed.stdout.splitlines()
