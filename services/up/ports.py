"""The API's port: whether it is free, before anything is started."""

from __future__ import annotations

import errno
import socket

from taskq_core.errors import AlreadyRunning, ConfigError

__all__ = ["claim_port"]


def claim_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0. Raises AlreadyRunning, ConfigError naming the flag."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"--host {host[:80]!r} is no address of this machine: {error}") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise _refusal(host, port, error) from None
        return int(probe.getsockname()[1])


def _refusal(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return AlreadyRunning(f"port {port} of {host} is taken; choose another with --port (0: a free one)")
    if error.errno == errno.EACCES:
        return ConfigError(f"port {port} may not be used by this user; choose one above 1023 with --port")
    return ConfigError(f"the API cannot listen on {host}:{port} ({error.strerror}); see --host and --port")
