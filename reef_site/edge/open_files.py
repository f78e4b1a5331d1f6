"""Limits on the open files of the public port, which keep some in reserve.

The kernel gives each new connection the lowest free descriptor, so a connection's descriptor shows
how many files are open.
"""

from __future__ import annotations

import logging
import resource
import time

logger = logging.getLogger("reef.edge")

# Key in the ASGI scope: the descriptor of the connection.
FILE = "reef.file"
# Streams last for hours, so a third of the files is kept for other requests. The last sixth is for
# connections to web, databases and Redis.
_STREAM_SHARE, _CONNECTION_SHARE = 2 / 3, 5 / 6
_LOG_SECONDS = 60.0
_logged_at = -_LOG_SECONDS


def limit() -> int:
    """Return the limit of open files of this process; 0 for none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == resource.RLIM_INFINITY else soft


def why_no_stream(file: int) -> str:
    """Return why this connection may not become a stream; empty if it may."""
    return _problem(file, _STREAM_SHARE, "stream")


def why_no_connection(file: int) -> str:
    """Return why this connection exceeds the limit; empty if it does not."""
    return _problem(file, _CONNECTION_SHARE, "connection")


def _problem(file: int, share: float, what: str) -> str:
    maximum = limit()
    if not maximum or file < maximum * share:
        return ""
    why = f"no room for another {what}: reef's edge may have {maximum} files open (ulimit -n)"
    _log(why)
    return why


def _log(why: str) -> None:
    """Log one line a minute at most."""
    global _logged_at
    now = time.monotonic()
    if now - _logged_at >= _LOG_SECONDS:
        _logged_at = now
        logger.warning("%s; further ones are refused", why)
