"""Checks of the supervisor: socket files of its services, and `/health`.

Standard library only, like the supervisor.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOCKET_INTERVAL_SECONDS = 1.0
HEALTH_INTERVAL_SECONDS = 5.0
# A running web process that has not responded for this long is restarted.
WEB_PATIENCE_SECONDS = 60.0


async def ask_health(host: str, port: int, seconds: float = 3.0) -> tuple[int, dict[str, Any]]:
    """Return status and JSON body of `GET /health`; status 0 without a response."""
    request = f"GET /health HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request.encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        status = int(head.split()[1])
    except (OSError, TimeoutError, ValueError, IndexError):
        return 0, {}
    try:
        payload = json.loads(body)
    except ValueError:
        return status, {}
    return status, payload if isinstance(payload, dict) else {}


async def until_socket_is_gone(paths: list[str]) -> str:
    """Wait until one of these socket files is missing while a process still listens; return it."""
    while True:
        missing = {path for path in paths if not Path(path).exists()}
        if missing and (gone := missing & _bound()):
            return min(gone)
        await asyncio.sleep(SOCKET_INTERVAL_SECONDS)


def _bound() -> set[str]:
    """Return the paths that Unix sockets are bound to, also if their files are gone."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {words[7] for words in (line.split(maxsplit=7) for line in lines) if len(words) == 8}


class HealthWatch:
    """Reporter of changes in reef's health, each of them once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._reported = ""
        # Problem at the last check; a problem must be there at two checks to be reported.
        self._previous = ""
        self._silent_since: float | None = None

    def take(self, status: int, payload: dict[str, Any]) -> bool:
        """Process one response; return whether the pages have been unresponsive for too long."""
        is_up = status in (200, 503)
        problem = (
            _problems(payload) if is_up else f"the pages do not answer ({status or 'no answer'})"
        )
        if problem == self._previous and problem != self._reported:
            self._say(f"degraded: {problem}" if problem else "healthy again")
            self._reported = problem
        self._previous = problem
        if is_up:
            self._silent_since = None
            return False
        self._silent_since = self._silent_since or time.monotonic()
        if time.monotonic() - self._silent_since < WEB_PATIENCE_SECONDS:
            return False
        self._silent_since = None
        return True


def _problems(payload: dict[str, Any]) -> str:
    parts = payload.get("parts", {})
    if not isinstance(parts, dict):
        return ""
    # Texts with digits are left out, since they change with each check.
    bad = {name: _plain(part.get("why", "")) for name, part in parts.items() if not part.get("ok")}
    return "; ".join(f"{name}: {why}" if why else name for name, why in bad.items())


def _plain(why: str) -> str:
    return "" if any(letter.isdigit() for letter in why) else why
