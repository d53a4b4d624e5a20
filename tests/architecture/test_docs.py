"""The documents say what the code does: lifecycle, layout, functions, settings, verbs, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from services.cli.app import build
from taskq_core.broker.library import FUNCTIONS
from taskq_core.config import Settings
from taskq_core.model.lifecycle import MOVES, NEUTRAL, Kind, Outcome, State

CHECKOUT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/README.md",
    "docs/lifecycle.md",
)
# Their modules each have a line in the layout; elsewhere folders are enough.
LISTED = ("taskq_core", "services")
CODE = re.compile(r"`([^`]+)`")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def read(name: str) -> str:
    return (CHECKOUT / name).read_text("utf-8")


def section(text: str, title: str) -> str:
    """From a heading to the next one of its level."""
    found = re.search(rf"^(#+) (?:\d+\. )?{re.escape(title)}$", text, re.MULTILINE)
    assert found, f"there is no section {title!r}"
    rest = text[found.end() :]
    plain = FENCE.sub(lambda fence: " " * len(fence[0]), rest)  # a comment in a shell is no heading
    following = re.search(rf"^#{{1,{len(found[1])}}} ", plain, re.MULTILINE)
    return rest[: following.start()] if following else rest


def rows(text: str) -> list[list[str]]:
    """The cells of a table's body."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def first_words(text: str) -> list[str]:
    """What the first column of a table names."""
    return [word for row in rows(text) for word in CODE.findall(row[0])]


# --- docs/lifecycle.md


def test_the_table_of_moves_is_the_code() -> None:
    told: dict[tuple[State | None, Kind], frozenset[State]] = {}
    for before, kind, after, *_ in rows(section(read("docs/lifecycle.md"), "Moves")):
        state = None if before == "none" else State(before.strip("`"))
        move = (state, Kind(kind.strip("`")))
        assert move not in told, f"{move} stands twice"
        told[move] = frozenset(State(word) for word in CODE.findall(after))
    assert told == MOVES


def test_the_diagram_draws_every_move_and_no_other() -> None:
    arrows = re.findall(r"^ +(\S+) --> (\S+) : (\S+)$", read("docs/lifecycle.md"), re.MULTILINE)
    drawn = {(None if before == "[*]" else before, kind, after) for before, after, kind in arrows}
    assert len(drawn) == len(arrows)
    assert drawn == {
        (before and str(before), str(kind), str(state))
        for (before, kind), after in MOVES.items()
        for state in after
    }


@pytest.mark.parametrize(
    ("title", "words"),
    [("States", set(State)), ("Neutral events", NEUTRAL), ("How an attempt ends", set(Outcome))],
)
def test_every_word_of_the_lifecycle_is_explained(title: str, words: set[str]) -> None:
    told = first_words(section(read("docs/lifecycle.md"), title))
    assert sorted(told) == sorted(str(word) for word in words)


# --- ARCHITECTURE.md


def layout() -> set[str]:
    """Every path of the layout; folders end in a slash."""
    block = section(read("ARCHITECTURE.md"), "Layout").split("```")[1]
    paths: set[str] = set()
    above: list[str] = []
    for line in block.strip("\n").splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        assert line.strip() != name, f"{name} has no word of explanation"
        above = [*above[:depth], name]
        paths.add("".join(above))
    return paths


def folders_of_the_tree() -> set[str]:
    """Top-level folders, and every folder that holds code or queries."""
    hidden = re.compile(r"(^|/)(\.(?!ci/)|__pycache__|build/|dist/)")
    files = [
        file
        for top in CHECKOUT.iterdir()
        if top.is_dir() and not hidden.search(f"{top.name}/")
        for file in top.rglob("*")
        if file.suffix in {".py", ".lua", ".sql", ".md", ".sh", ".html"} or top.name == ".ci"
    ]
    parents = {file.parent.relative_to(CHECKOUT).as_posix() + "/" for file in files if file.is_file()}
    return {folder for folder in parents if not hidden.search(folder)}


def test_everything_in_the_layout_exists() -> None:
    missing = {path for path in layout() if not (CHECKOUT / path).exists()}
    assert not missing


def test_every_folder_is_in_the_layout() -> None:
    unnamed = folders_of_the_tree() - layout()
    assert not unnamed, "give each a line in ARCHITECTURE.md, section Layout"


def test_every_module_is_in_the_layout() -> None:
    modules = {
        file.relative_to(CHECKOUT).as_posix() for top in LISTED for file in (CHECKOUT / top).rglob("*.py")
    }
    assert not modules - layout(), "give each a line in ARCHITECTURE.md, section Layout"


def test_every_function_is_listed() -> None:
    told = first_words(section(read("ARCHITECTURE.md"), "Functions"))
    assert sorted(told) == sorted(FUNCTIONS)


def test_every_table_of_the_history_is_listed() -> None:
    made = {
        name
        for folder in ("migrations", "queries")
        for file in (CHECKOUT / "taskq_core/audit/sql" / folder).glob("*.sql")
        for name, is_part in re.findall(
            r"CREATE TABLE (?:IF NOT EXISTS )?taskq\.(\w+)( PARTITION OF)?", file.read_text("utf-8")
        )
        if not is_part
    }
    told = first_words(section(read("ARCHITECTURE.md"), "The history in Postgres"))
    assert set(told) == made


# --- README.md


def test_every_setting_is_in_the_readme() -> None:
    told = first_words(section(read("README.md"), "Settings"))
    assert sorted(told) == sorted(f"TASKQ_{name.upper()}" for name in Settings.__struct_fields__)


def test_every_verb_is_in_the_readme() -> None:
    commands = cast("dict[str, Any]", build().commands)
    verbs = {name for name, command in commands.items() if not command.hidden}
    told = {word.split()[0] for word in first_words(section(read("README.md"), "The command line"))}
    assert told == verbs


# --- links


def headings(text: str) -> set[str]:
    """Anchors, as code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def leads_somewhere(document: str, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (CHECKOUT / document).parent / path if path else CHECKOUT / document
    return target.exists() and (not anchor or anchor in headings(target.read_text("utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", read(document)))
    broken = [link for link in links if not leads_somewhere(document, link)]
    assert not broken, "links lead into the checkout, to a file or a heading that is there"


def test_the_readme_leads_to_the_other_documents() -> None:
    links = set(re.findall(r"\]\(([^)#\s]+)", read("README.md")))
    assert {"ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/README.md"} <= links
