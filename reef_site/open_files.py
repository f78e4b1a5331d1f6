"""How many files the public port may have open, and what is refused before there are none left.

The kernel gives each new connection the lowest free number, so the number of a connection tells how
many files are open.
"""

from __future__ import annotations

import logging
import resource
import time

logger = logging.getLogger("reef.edge")

# The number of a connection's file, in its scope.
FILE = "reef.file"
# A stream stays for hours, so a third of the files is for all others. The rest is for connections
# to web, databases and Redis.
_STREAM_SHARE, _CONNECTION_SHARE = 2 / 3, 5 / 6
_LOG_SECONDS = 60.0
_logged_at = -_LOG_SECONDS


def limit() -> int:
    """Return how many files this process may have open; 0 for any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else soft


def why_no_stream(file: int) -> str:
    """Return why the connection with this file may not become a stream; empty if it may."""
    return _why(file, _STREAM_SHARE, "stream")


def why_no_connection(file: int) -> str:
    """Return why the connection with this file is one too many; empty if it is not."""
    return _why(file, _CONNECTION_SHARE, "connection")


def _why(file: int, share: float, what: str) -> str:
    most = limit()
    if not most or file < most * share:
        return ""
    why = f"no room for another {what}: reef's edge may have {most} files open (ulimit -n)"
    _log(why)
    return why


def _log(why: str) -> None:
    """Write one line a minute at most."""
    global _logged_at
    now = time.monotonic()
    if now - _logged_at >= _LOG_SECONDS:
        _logged_at = now
        logger.warning("%s; further ones are refused", why)
