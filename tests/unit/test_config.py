"""Bad input B41 and the order in which settings are found."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from taskq_core.config import NothingRuns, Settings, find_release, load_settings
from taskq_core.errors import ConfigError

REDIS = "redis://127.0.0.1:6379/0"
DATABASE = "postgresql://taskq@127.0.0.1/taskq"


def write_up(home: Path, **fields: Any) -> None:
    home.mkdir(exist_ok=True)
    up = {"pid": os.getpid(), "api": None, "token_file": None, "redis_url": REDIS, "database_url": DATABASE}
    (home / "up.json").write_text(json.dumps(up | fields))


def write_toml(folder: Path, text: str, mode: int = 0o600) -> None:
    (folder / "taskq.toml").write_text(text)
    (folder / "taskq.toml").chmod(mode)


def load(cwd: Path, flags: dict[str, Any] | None = None, **env: str) -> Settings:
    return load_settings({"home": str(cwd / "home")} | (flags or {}), env, cwd)


def test_a_flag_wins_over_a_variable_over_the_file_over_what_runs(tmp_path: Path) -> None:
    write_up(tmp_path / "home", redis_url="redis://up:1")
    assert load(tmp_path).redis_url == "redis://up:1"
    write_toml(tmp_path, 'redis_url = "redis://file:1"')
    assert load(tmp_path).redis_url == "redis://file:1"
    assert load(tmp_path, TASKQ_REDIS_URL="redis://env:1").redis_url == "redis://env:1"
    flags = {"redis_url": "redis://flag:1"}
    assert load(tmp_path, flags, TASKQ_REDIS_URL="redis://env:1").redis_url == "redis://flag:1"


def test_a_named_system_is_not_mixed_with_the_one_that_runs(tmp_path: Path) -> None:
    write_up(tmp_path / "home")
    assert load(tmp_path, TASKQ_REDIS_URL="redis://env:1").database_url == ""


def test_a_remote_address_hides_direct_ones_of_lower_places(tmp_path: Path) -> None:
    write_toml(tmp_path, f'redis_url = "{REDIS}"')
    settings = load(tmp_path, TASKQ_URL="https://queue.example", TASKQ_TOKEN="tq_x")
    assert (settings.redis_url, settings.url, settings.is_remote) == ("", "https://queue.example", True)


def test_what_runs_gives_addresses_and_token(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_up(home, api="http://127.0.0.1:8000", token_file=str(home / "token"))
    (home / "token").write_text("tq_secret\n")
    (home / "token").chmod(0o600)
    settings = load(tmp_path)
    assert (settings.database_url, settings.url, settings.token) == (
        DATABASE,
        "http://127.0.0.1:8000",
        "tq_secret",
    )
    assert not settings.is_remote


def test_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(NothingRuns, match=r"nothing runs in .*home; start it with \./run"):
        load(tmp_path)
    write_up(tmp_path / "home", pid=2**22 + 1)
    with pytest.raises(NothingRuns):
        load(tmp_path)
    (tmp_path / "home" / "up.json").write_text("{")
    with pytest.raises(NothingRuns):
        load(tmp_path)
    assert load_settings({"home": str(tmp_path)}, {}, tmp_path, require=False).redis_url == ""


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"TASKQ_REDIS_ULR": REDIS}, "unknown variable TASKQ_REDIS_ULR: did you mean 'TASKQ_REDIS_URL'"),
        ({"TASKQ_BANANA": "1"}, "unknown variable TASKQ_BANANA: known are TASKQ_DATABASE_URL"),
        ({"TASKQ_LEASE": "soon"}, "TASKQ_LEASE must be 0.2 to 3600 seconds, like 30; it reads 'soon'"),
        ({"TASKQ_LEASE": "-1"}, "TASKQ_LEASE must be"),
        ({"TASKQ_LEASE": "nan"}, "TASKQ_LEASE must be"),
        ({"TASKQ_SHARDS": "2"}, "TASKQ_SHARDS must be 1"),
        ({"TASKQ_REDIS_URL": "localhost:6379"}, "TASKQ_REDIS_URL must begin with redis://, rediss://"),
        ({"TASKQ_DATABASE_URL": "mysql://x"}, "TASKQ_DATABASE_URL must begin with postgresql://"),
        ({"TASKQ_SCRAPE_ALLOW": "everything"}, "TASKQ_SCRAPE_ALLOW must hold CIDR"),
        ({"TASKQ_TOKEN_FILE": "missing"}, "missing cannot be read"),
        ({"TASKQ_TOKEN": "a", "TASKQ_TOKEN_FILE": "b"}, "TASKQ_TOKEN_FILE and its twin are both set"),
    ],
)
def test_bad_variables(tmp_path: Path, env: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        load_settings({}, {"TASKQ_REDIS_URL": REDIS} | env, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("redis_ulr = 'x'", "unknown setting taskq.toml: redis_ulr: did you mean 'redis_url'"),
        ("lease = 'long'", "taskq.toml: lease must be 0.2 to 3600"),
        ("lease = true", "taskq.toml: lease must be"),
        ("redis_url = 5", "taskq.toml: redis_url must be text in quotes, not 5"),
        ("import_modules = [1]", "taskq.toml: import_modules must be a list of texts"),
        ("lease = ", "taskq.toml cannot be read"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, why: str) -> None:
    write_toml(tmp_path, text)
    with pytest.raises(ConfigError, match=why):
        load(tmp_path)


def test_foreign_variables_are_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, TASKQ_REDIS_URL=REDIS, TASKQ_PYTHON="python3", PATH="/bin").redis_url == REDIS


def test_secrets_lie_in_files_that_others_cannot_read(tmp_path: Path) -> None:
    secret = tmp_path / "redis.url"
    secret.write_text(REDIS + "\n")
    secret.chmod(0o600)
    assert load(tmp_path, TASKQ_REDIS_URL_FILE=str(secret)).redis_url == REDIS
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match=f"can be read by everyone .*chmod 600 {secret}"):
        load(tmp_path, TASKQ_REDIS_URL_FILE=str(secret))


def test_a_file_with_a_secret_must_not_be_readable_by_everyone(tmp_path: Path) -> None:
    write_toml(tmp_path, f'redis_url = "{REDIS}"\nlease = 5', 0o644)
    assert load(tmp_path).lease == 5.0
    write_toml(tmp_path, 'redis_url = "redis://:hunter2@127.0.0.1"', 0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(tmp_path)
    write_toml(tmp_path, 'redis_url = "redis://:hunter2@127.0.0.1"', 0o600)
    assert load(tmp_path).redis_url == "redis://:hunter2@127.0.0.1"


def test_secrets_show_nowhere(tmp_path: Path) -> None:
    shown = repr(
        load(
            tmp_path,
            TASKQ_REDIS_URL="unix:///tmp/a.sock?password=hunter2",
            TASKQ_DATABASE_URL="postgresql://me:hunter2@/taskq?host=/tmp",
            TASKQ_TOKEN="hunter2",
        )
    )
    assert "hunter2" not in shown
    assert "postgresql://me:***@/taskq" in shown
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, TASKQ_REDIS_URL="redid://:hunter2@host")
    assert "hunter2" not in str(caught.value)


def test_lists(tmp_path: Path) -> None:
    settings = load(tmp_path, TASKQ_REDIS_URL=REDIS, TASKQ_SCRAPE_ALLOW="10.0.0.0/8, [::1]:80,127.0.0.1:8080")
    assert settings.scrape_allow == ("10.0.0.0/8", "[::1]:80", "127.0.0.1:8080")


def test_home_is_found_from_where_it_was_said(tmp_path: Path) -> None:
    settings = load_settings({"redis_url": REDIS}, {"TASKQ_HOME": "data"}, tmp_path)
    assert settings.home == tmp_path / "data"


@pytest.mark.parametrize("packed", [False, True])
def test_release_is_the_git_revision(tmp_path: Path, packed: bool) -> None:
    git = tmp_path / ".git"
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert find_release(tmp_path) == "unknown"
    if packed:
        (git / "packed-refs").write_text("# pack-refs\n0123456789abcdef refs/heads/main\n")
    else:
        (git / "refs" / "heads").mkdir(parents=True)
        (git / "refs" / "heads" / "main").write_text("0123456789abcdef\n")
    (tmp_path / "deep").mkdir()
    assert find_release(tmp_path / "deep") == "0123456789ab"
    assert load(tmp_path, TASKQ_REDIS_URL=REDIS, TASKQ_RELEASE="v7").release == "v7"
