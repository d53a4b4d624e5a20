"""The data folder's rules: what is refused, in which words, and what only its owner may read."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from taskq_core.embedded import DataFolder, FoundServer, UpInfo
from taskq_core.embedded.find import read_version
from taskq_core.embedded.memory import SHARE, memory_limit
from taskq_core.errors import AlreadyRunning, DataFolderError


def found(kind: str, *version: int) -> FoundServer:
    return FoundServer(kind=kind, version=version, path=Path("/bin") / kind)


def up_info(pid: int) -> UpInfo:
    return {
        "api": "http://127.0.0.1:8000",
        "dashboard": None,
        "dashboard_login": None,
        "token_file": None,
        "pid": pid,
        "redis_url": "unix:///x",
        "database_url": None,
    }


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "data")


def test_a_new_folder_gets_its_layout_and_is_private(folder: DataFolder) -> None:
    with folder.claim():
        assert mode(folder.path) == 0o700
        assert folder.format().format == 1
        assert folder.images.is_dir()
        assert folder.files.is_dir()
        assert folder.claimed
    assert not folder.claimed
    with folder.claim():  # and again, now that it exists
        assert folder.format().created_at.endswith("Z")


def test_a_second_user_is_told_who_holds_the_folder(folder: DataFolder) -> None:
    with folder.claim(), pytest.raises(AlreadyRunning, match=rf"process {os.getpid()} already runs .*--data"):
        DataFolder(folder.path).acquire()


def test_traces_of_a_first_start_do_not_make_a_folder_foreign(folder: DataFolder) -> None:
    folder.path.mkdir()
    (folder.path / "lock").touch()
    with folder.claim():
        assert folder.format().format == 1


def test_a_foreign_folder_is_refused_and_left_alone(folder: DataFolder) -> None:
    folder.path.mkdir()
    (folder.path / "thesis.txt").write_text("precious")
    with pytest.raises(DataFolderError, match=r"is no taskq data folder.*--data"):
        folder.acquire()
    assert [entry.name for entry in folder.path.iterdir()] == ["thesis.txt"]


def test_a_file_in_its_place_is_refused(folder: DataFolder) -> None:
    folder.path.write_text("")
    with pytest.raises(DataFolderError, match="is a file"):
        folder.acquire()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataFolderError, match="Permission denied"):
        DataFolder(tmp_path / "data").acquire()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is broken"),
        ("", "is broken"),
        ("[]", "is broken"),
        ('{"format": "one"}', "is broken"),
        ('{"format": 1}', "is broken"),
        ('{"format": 2, "something": "new"}', "written by a newer taskq"),
    ],
)
def test_a_format_file_that_makes_no_sense_is_one_clear_line(
    folder: DataFolder, content: str, words: str
) -> None:
    folder.path.mkdir()
    (folder.path / "format.json").write_text(content)
    with pytest.raises(DataFolderError, match=words) as caught:
        folder.acquire()
    assert "\n" not in str(caught.value)
    assert not folder.claimed
    (folder.path / "format.json").unlink()
    folder.acquire()  # the lock was given back
    folder.release()


@pytest.mark.parametrize(
    ("before", "now", "fine"),
    [
        (found("valkey", 9, 1, 2), found("valkey", 9, 1, 2), True),
        (found("valkey", 8, 0), found("valkey", 9, 1, 2), True),
        (found("valkey", 9, 1, 2), found("valkey", 8, 1), False),
        (found("valkey", 9, 1, 2), found("redis", 8, 0), False),
        (found("redis", 7, 0, 15), found("valkey", 9, 1, 2), True),
        (found("redis", 7, 4, 0), found("valkey", 9, 1, 2), False),
    ],
)
def test_a_server_only_gets_data_that_it_can_read(
    folder: DataFolder, before: FoundServer, now: FoundServer, fine: bool
) -> None:
    with folder.claim():
        folder.note_valkey(before)
        if fine:
            folder.note_valkey(now)
            assert folder.format().valkey == now.label
        else:
            with pytest.raises(
                DataFolderError, match=rf"written by {before.label}, which {now.label} cannot"
            ):
                folder.note_valkey(now)


def test_the_major_version_of_the_cluster_is_read_from_the_cluster(folder: DataFolder) -> None:
    with folder.claim():
        assert folder.postgres_major() is None
        folder.postgres.mkdir()
        (folder.postgres / "PG_VERSION").write_text("15\n")
        assert folder.postgres_major() == 15
        (folder.postgres / "PG_VERSION").write_text("?")
        with pytest.raises(DataFolderError, match="is damaged"):
            folder.postgres_major()


def test_secrets_and_token_are_for_the_owner_only(folder: DataFolder) -> None:
    with folder.claim():
        first = folder.secrets()
        assert folder.secrets() == first
        assert len(first.postgres) > 20
        assert folder.read_token() is None
        folder.write_token("tq_a_b")
        assert folder.read_token() == "tq_a_b"
        assert mode(folder.token_file) == 0o600
        assert mode(folder.path / "secrets.json") == 0o600


def test_up_json_speaks_only_for_a_living_process(folder: DataFolder) -> None:
    with folder.claim():
        assert folder.read_up() is None
        folder.write_up(up_info(os.getpid()))
        assert mode(folder.up_file) == 0o600
        assert folder.read_up() == up_info(os.getpid())
        assert set(json.loads(folder.up_file.read_text())) == set(UpInfo.__annotations__)
        for dead in (0, -1, 2**22 + 1):
            folder.write_up(up_info(dead))
            assert folder.read_up() is None
        folder.up_file.write_text("{")
        assert folder.read_up() is None
        folder.remove_up()
        folder.remove_up()
        assert not folder.up_file.exists()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1536", "valkey 9.1.2"),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "redis 7.0.15"),
        ("postgres (PostgreSQL) 18.6", "postgres 18.6"),
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "postgres 15.18"),
        ("postgres (PostgreSQL) 19beta1", "postgres 19"),
        ("command not found", None),
    ],
)
def test_versions_are_understood(text: str, label: str | None) -> None:
    server = read_version(text, Path("/bin/x"))
    assert (server and server.label) == label


def test_the_memory_limit_is_a_share_of_what_the_machine_has() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory_limit() <= total * SHARE


def test_the_smallest_limit_on_the_way_up_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskq_core.embedded import memory

    (tmp_path / "inner").mkdir()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "inner" / "memory.max").write_text("400000\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_own_groups", lambda folder: [folder, folder / "inner"])
    assert memory_limit() == 300000
