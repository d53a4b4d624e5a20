# shellcheck shell=sh disable=SC2154 # `root` is set by the caller
# Sourced by ./run and ./test, which set `root` to the checkout: finds a Python and keeps .venv up to date.
# The quick path (nothing has changed) is a checksum and one start of Python; the rest is tools/setup.py.

say() {
  printf 'taskq: %s\n' "$*" >&2
}

die() {
  say "$*"
  exit 1
}

# Whether a command is a Python that can carry taskq. It must have run and said so: a shim on PATH may only
# print an error, and free-threaded builds lack wheels.
is_usable() {
  "$1" -c '
import sys, sysconfig
sys.exit(sys.version_info < (3, 12) or sys.implementation.name != "cpython"
         or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))' >/dev/null 2>&1 </dev/null
}

# Prints the interpreters of one pyenv folder, newest first.
pyenv_interpreters() {
  [ -d "$1/versions" ] || return 0
  for folder in "$1"/versions/*/; do
    name=${folder%/}
    printf '%s\n' "${name##*/}"
  done | sort -t. -k1,1nr -k2,2nr -k3,3nr | while IFS= read -r name; do
    printf '%s\n' "$1/versions/$name/bin/python3"
  done
}

# Prints the places to look for an interpreter, in order, one a line.
interpreters() {
  if [ -n "${TASKQ_PYTHON:-}" ]; then printf '%s\n' "$TASKQ_PYTHON"; fi
  printf '%s\n' python3.14 python3.13 python3.12 python3
  if [ -n "${PYENV_ROOT:-}" ]; then pyenv_interpreters "$PYENV_ROOT"; fi
  if [ -n "${HOME:-}" ]; then pyenv_interpreters "$HOME/.pyenv"; fi
}

# Prints the first usable interpreter; fails when there is none.
find_interpreter() {
  interpreters | {
    while IFS= read -r candidate; do
      if is_usable "$candidate"; then
        printf '%s\n' "$candidate"
        exit 0
      fi
    done
    exit 1
  }
}

# Lets uv, if it is there, fetch a Python into the checkout; prints it.
install_interpreter() {
  uv=$(command -v uv || true)
  if [ -z "$uv" ] && [ -x "${HOME:-}/.local/bin/uv" ]; then uv=$HOME/.local/bin/uv; fi
  [ -n "$uv" ] || return 1
  say 'no Python 3.12 or newer here; asking uv for one'
  UV_PYTHON_INSTALL_DIR=$root/.python UV_PYTHON_INSTALL_BIN=0
  export UV_PYTHON_INSTALL_DIR UV_PYTHON_INSTALL_BIN
  "$uv" python install -q 3.13 >&2 && "$uv" python find 3.13
}

# Package caches belong into the user's cache folder; where that cannot be written, into .venv.
choose_caches() {
  if [ -n "${XDG_CACHE_HOME:-}" ]; then
    if mkdir -p "$XDG_CACHE_HOME" 2>/dev/null && [ -w "$XDG_CACHE_HOME" ]; then return 0; fi
  elif [ -n "${HOME:-}" ] && [ -d "$HOME" ]; then
    if mkdir -p "$HOME/.cache" 2>/dev/null && [ -w "$HOME/.cache" ]; then return 0; fi
  fi
  UV_CACHE_DIR=${UV_CACHE_DIR:-$root/.venv/cache/uv}
  PIP_CACHE_DIR=${PIP_CACHE_DIR:-$root/.venv/cache/pip}
  export UV_CACHE_DIR PIP_CACHE_DIR
}

# What the environment depends on, in one line; with `test`, also what only tests need.
environment_key() {
  set -- "$1" requirements.lock pyproject.toml tools/setup.py tools/requirements-uv.lock
  [ "$1" = run ] || set -- "$@" requirements-dev.lock
  shift
  (cd "$root" && cat "$@") | cksum | tr -s ' \t' '  '
  printf '%s\n' "$root"
}

# Makes .venv fit: `set_up run`, or `set_up test` for the development packages as well.
set_up() {
  venv_python=$root/.venv/bin/python
  key=$(environment_key "$1")
  if [ -f "$root/.venv/$1.stamp" ] && [ "$(cat "$root/.venv/$1.stamp")" = "$key" ] && is_usable "$venv_python"; then
    [ -n "${TASKQ_PYTHON:-}" ] || return 0
    [ "$(cat "$root/.venv/interpreter")" != "$TASKQ_PYTHON" ] || return 0
  fi
  choose_caches
  if ! interpreter=$(find_interpreter) && ! interpreter=$(install_interpreter); then
    die 'Python 3.12 or newer is needed: install one (or uv, which brings it), or name it in TASKQ_PYTHON'
  fi
  if [ -n "${TASKQ_PYTHON:-}" ] && [ "$interpreter" != "$TASKQ_PYTHON" ]; then
    say "TASKQ_PYTHON=$TASKQ_PYTHON is no usable Python 3.12 or newer; taking $interpreter"
  fi
  "$interpreter" -I "$root/tools/setup.py" "$root" "$1" "$interpreter" "$key" || exit 1
}
