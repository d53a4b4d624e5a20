"""Settings: where the system is and how it behaves, from four places.

A flag wins over a `TASKQ_*` variable, that over `taskq.toml` in the working folder, that over what the
data folder's `up.json` says of a running system. Unknown names are refused with the nearest known one.
Secrets may lie in files (`TASKQ_TOKEN_FILE`, `token_file = "…"`) that others must not be able to read.
"""

from __future__ import annotations

import ipaddress
import os
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from taskq_core.errors import ConfigError, Unavailable
from taskq_core.log import mask
from taskq_core.words import nearest

__all__ = ["CONFIG_FILE", "PREFIX", "NothingRuns", "Settings", "find_home", "load_settings"]

PREFIX = "TASKQ_"
CONFIG_FILE = "taskq.toml"
REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+cluster", "redis+sentinel")
# Read by the set-up scripts, or written by a supervisor for its children: no settings.
FOREIGN_VARIABLES = frozenset({"TASKQ_ISOLATE", "TASKQ_PYTHON", "TASKQ_RUNNER", "TASKQ_SKIP_LINT"})
MIN_LEASE_S, MAX_LEASE_S = 0.2, 3600.0
_MOUNTED_SECRETS = Path("/run/secrets")  # container engines mount them world-readable, on purpose


class NothingRuns(Unavailable):
    """No setting says where the system is, and none runs in the data folder."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting; an empty text means that it is not set."""

    redis_url: str = ""
    database_url: str = ""
    url: str = ""  # of the REST API, for work from another machine
    token: str = ""  # API key for `url`
    home: Path = Path(".taskq")  # the data folder
    lease: float = 30.0  # seconds that a silent runner keeps its task
    release: str = ""  # code version of the tasks
    shards: int = 1
    trace_url: str = ""  # link template, {trace_id} is filled in
    scrape_allow: tuple[str, ...] = ()  # CIDR blocks and address:port pairs that web.scrape may fetch
    import_modules: tuple[str, ...] = ()  # modules whose tasks a worker serves

    @property
    def is_remote(self) -> bool:
        """Whether the system is reached over REST rather than directly."""
        return not self.redis_url and bool(self.url)

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__ if getattr(self, name)}
        if self.token:
            shown["token"] = "***"  # noqa: S105  # the very opposite of a secret
        return f"Settings({', '.join(f'{name}={mask(repr(value))}' for name, value in shown.items())})"


def load_settings(
    flags: Mapping[str, Any], env: Mapping[str, str], cwd: Path, *, require: bool = True
) -> Settings:
    """The settings that hold for a process.

    Raises ConfigError for a bad setting; NothingRuns when `require` and no system is named or found.
    """
    layers = [
        _read_layer(flags, "{}", cwd),
        _read_environment(env, cwd),
        _read_file(cwd / CONFIG_FILE),
    ]
    found = _merge(layers)
    home = found.setdefault("home", find_home(cwd))
    if not found.get("redis_url") and not found.get("url"):
        found = _read_up(home) | found
    if require and not found.get("redis_url") and not found.get("url"):
        raise NothingRuns(f"nothing runs in {home}; start it with ./run")
    found.setdefault("release", find_release(cwd))
    return Settings(**found)


def find_home(cwd: Path) -> Path:
    """The data folder when no setting names one: beside the checkout that this code runs from, else here."""
    checkout = Path(__file__).resolve().parents[1]
    owned = (checkout / "run").is_file() and (checkout / "pyproject.toml").is_file()
    return (checkout if owned else cwd) / ".taskq"


def find_release(cwd: Path) -> str:
    """The git revision of the working folder, 12 digits; `unknown` outside a checkout."""
    for folder in (cwd, *cwd.parents):
        try:
            if (folder / ".git").exists():
                return _revision(folder / ".git")[:12] or "unknown"
        except OSError:
            return "unknown"
    return "unknown"


# --- one place after the other ------------------------------------------------------------------------------


def _merge(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first place that names an address decides between direct and remote for all below it."""
    found: dict[str, Any] = {}
    addressed = False
    for layer in layers:
        for name, value in layer.items():
            if not (addressed and name in _ADDRESS):
                found.setdefault(name, value)
        addressed = addressed or bool(layer.get("redis_url") or layer.get("url"))
    return found


_ADDRESS = frozenset({"redis_url", "url"})


def _read_environment(env: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    ours = {
        name: value
        for name, value in env.items()
        if name.startswith(PREFIX) and name not in FOREIGN_VARIABLES and value
    }
    known = {PREFIX + name.upper(): name for name in _KNOWN}
    for name in ours:
        if name not in known:
            hint = nearest(name.removeprefix(PREFIX), (key.removeprefix(PREFIX) for key in known), PREFIX)
            raise ConfigError(f"unknown variable {name[:80]}: {hint}")
    return _read_layer({known[name]: value for name, value in ours.items()}, PREFIX + "{}", cwd)


def _read_file(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file.name} cannot be read: {error}") from error
    layer = _read_layer(content, f"{file.name}: {{}}", file.parent)
    secret = [name for name in _SECRET if name in content and _holds_secret(name, layer[name])]
    if secret:
        _refuse_readable(file, f"it holds {secret[0]}")
    return layer


def _read_layer(given: Mapping[str, Any], label: str, base: Path) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key not in _KNOWN:
            raise ConfigError(f"unknown setting {label.format(key[:80])}: {nearest(key, _KNOWN)}")
        shown = label.format(key.upper() if label.startswith(PREFIX) else key)
        name = key.removesuffix("_file") if key not in _PARSERS else key
        if name in layer:
            raise ConfigError(f"{shown} and its twin are both set; keep one")
        content = value if name == key else _read_secret(shown, base / str(value))
        try:
            layer[name] = _PARSERS[name](content)
        except ValueError as error:
            raise ConfigError(f"{shown} {error}") from None
        if name == "home":
            layer[name] = (base / layer[name].expanduser()).absolute()
    return layer


def _read_secret(shown: str, file: Path) -> str:
    _refuse_readable(file, f"{shown} names it")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: {file} cannot be read: {error}") from error


def _refuse_readable(file: Path, why: str) -> None:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({why}): {error.strerror}") from error
    if mode & stat.S_IROTH and _MOUNTED_SECRETS not in file.absolute().parents:
        raise ConfigError(f"{file} can be read by everyone ({why}); run: chmod 600 {file}")


class _UpFile(msgspec.Struct):
    """What is of use in `up.json`."""

    pid: int
    api: str | None = None
    token_file: str | None = None
    redis_url: str | None = None
    database_url: str | None = None


def _read_up(home: Path) -> dict[str, Any]:
    """What runs in a data folder; nothing when its process is gone."""
    try:
        up = msgspec.json.decode((home / "up.json").read_bytes(), type=_UpFile)
        os.kill(up.pid, 0)
    except PermissionError:  # it lives, under another user
        raise ConfigError(
            f"what runs in {home} belongs to another user; set {PREFIX}URL and {PREFIX}TOKEN"
        ) from None
    except (OSError, OverflowError, msgspec.MsgspecError):
        return {}
    found = {"redis_url": up.redis_url, "database_url": up.database_url, "url": up.api}
    if up.token_file:
        found["token"] = _read_secret("up.json", home / up.token_file)
    return {name: value for name, value in found.items() if value}


def _revision(git: Path) -> str:
    """The commit of HEAD, read from git's own files: starting git takes longer than all the rest."""
    if git.is_file():  # a linked working tree
        git = (git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()).resolve()
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return head
    ref = head.removeprefix("ref:").strip()
    common = git / "commondir"
    root = (git / common.read_text(encoding="utf-8").strip()).resolve() if common.is_file() else git
    if (root / ref).is_file():
        return (root / ref).read_text(encoding="utf-8").strip()
    packed = root / "packed-refs"
    lines = packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
    return next((line.split(" ")[0] for line in lines if line.endswith(" " + ref)), "")


# --- one setting after the other ----------------------------------------------------------------------------
# A parser takes text (flag, variable) or a TOML value, and raises ValueError with the end of the sentence.


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"must be text in quotes, not {value!r:.40}")


def _url(*schemes: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        text = _text(value)
        scheme = urlsplit(text).scheme
        if scheme not in schemes or "://" not in text:
            starts = ", ".join(f"{known}://" for known in schemes)
            raise ValueError(f"must begin with {starts}; it reads {mask(text)[:40]!r}")
        return text

    return parse


def _folder(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(value))


def _lease(value: Any) -> float:
    try:
        seconds = float(value) if isinstance(value, int | float | str) else float("nan")
    except ValueError:
        seconds = float("nan")
    if isinstance(value, bool) or not MIN_LEASE_S <= seconds <= MAX_LEASE_S:
        raise ValueError(
            f"must be {MIN_LEASE_S:g} to {MAX_LEASE_S:g} seconds, like 30; it reads {value!r:.40}"
        )
    return seconds


def _shards(value: Any) -> int:
    if isinstance(value, bool) or str(value) != "1":
        raise ValueError(f"must be 1 in this release; it reads {value!r:.40}")
    return 1


def _list(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list | tuple):
        items = cast(Sequence[Any], value)
        if all(isinstance(item, str) for item in items):
            return tuple(items)
    raise ValueError(f"must be a list of texts, not {value!r:.40}")


def _networks(value: Any) -> tuple[str, ...]:
    parts = _list(value)
    for part in parts:
        if not (_is_network(part) or _is_endpoint(part)):
            raise ValueError(f"must hold CIDR blocks or address:port, like 10.0.0.0/8; it has {part!r:.60}")
    return parts


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _is_endpoint(text: str) -> bool:
    host, _, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
        return 0 < int(port) < 65536
    except ValueError:
        return False


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "redis_url": _url(*REDIS_SCHEMES),
    "database_url": _url("postgresql", "postgres"),
    "url": _url("http", "https"),
    "token": _text,
    "home": _folder,
    "lease": _lease,
    "release": _text,
    "shards": _shards,
    "trace_url": _url("http", "https"),
    "scrape_allow": _networks,
    "import_modules": _list,
}
_SECRET = ("redis_url", "database_url", "token")
_KNOWN = (*_PARSERS, *(f"{name}_file" for name in _SECRET))


def _holds_secret(name: str, value: str) -> bool:
    return name == "token" or mask(value) != value
