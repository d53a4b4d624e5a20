"""Asking our own API how the system is."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

__all__ = ["Health", "ask_health"]

_ANSWER_S = 5.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # listened on, not connected to


class Health(msgspec.Struct):
    """What /health says to who may read."""

    status: str = "down"
    checks: dict[str, object] = {}

    @property
    def reason(self) -> str:
        """Why it is not ok, in a line."""
        reasons = self.checks.get("reasons")
        if isinstance(reasons, list) and reasons:
            return "; ".join(str(reason) for reason in reasons)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return str(self.checks.get("verdict", "the API does not answer yet"))


async def ask_health(host: str, port: int, token: str | None) -> Health:
    """What the API says now; `down` while it does not answer."""
    with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
        async with asyncio.timeout(_ANSWER_S):
            return msgspec.json.decode(await _get(_ANYWHERE.get(host, host), port, token), type=Health)
    return Health()


async def _get(host: str, port: int, token: str | None) -> bytes:
    """The body of GET /health; by hand, so that nothing has to be imported while everything starts."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        key = f"Authorization: Bearer {token}\r\n" if token else ""
        name = f"[{host}]" if ":" in host else host
        head = f"GET /health HTTP/1.1\r\nHost: {name}:{port}\r\n{key}Connection: close\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.read(1 << 20)
        while chunk := await reader.read(1 << 20):
            answer += chunk
    finally:
        writer.close()
    return answer.partition(b"\r\n\r\n")[2]
