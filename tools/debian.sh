# shellcheck shell=sh
# Sourced by ./test: the system packages that only tests need.

# Prints the packages of a list that are not installed.
missing_packages() {
  sed 's/#.*//' "$1" | while read -r package _; do
    [ -n "$package" ] || continue
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    if [ "$status" != installed ]; then printf '%s ' "$package"; fi
  done
}

# Installs packages without starting any service: Debian asks policy-rc.d before it starts one.
install_packages() {
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  apt-get -qq update >&2 || say 'apt-get update failed; trying with what is known'
  # shellcheck disable=SC2068 # one word per package
  apt-get -qq install -y --no-install-recommends $@ >&2
}

# Makes sure that the listed packages are there: root installs them, others are told how.
need_debian_packages() {
  if ! command -v dpkg-query >/dev/null; then
    say 'no Debian: tests that need system servers look for them on PATH'
    return 0
  fi
  missing=$(missing_packages "$1")
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" = 0 ]; then
    say "installing for the tests: $missing"
    # shellcheck disable=SC2086 # one word per package
    (install_packages $missing) || true
    missing=$(missing_packages "$1")
    [ -n "$missing" ] || return 0
  fi
  say "some tests need: sudo apt-get install -y $missing"
  [ -z "${CI:-}" ] || exit 1
}
