"""Checkpoints of SQLite's write-ahead log, outside of the requests that write.

A commit that finds a long log does the checkpoint itself and waits for the disk. The edge does it
twice a second on a connection of its own, so that no heartbeat waits for it.
"""

from __future__ import annotations

import logging
import threading

from django.db import Error as DatabaseError
from django.db import connection

from registry import queries

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.5
# Pages of 4 kB. A longer log is restarted, which blocks writers for a moment.
MAX_LOG_PAGES = 8000
_BUSY_TIMEOUT_MS = 10
_WRITER_PATIENCE_SECONDS = 1.0


class Checkpoints:
    """A thread that runs checkpoints; on PostgreSQL it does nothing."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reef-checkpoints", daemon=True)
        if connection.vendor == "sqlite":
            self._thread.start()

    def close(self) -> None:
        """Stop the thread without waiting for it."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            try:
                checkpoint()
            except DatabaseError as error:
                logger.warning("the log cannot be folded in: %s", error)
                connection.close()
            except Exception:
                # Without this thread the log would grow for ever.
                logger.exception("the log cannot be folded in")
                connection.close()
        connection.close()


def checkpoint() -> None:
    """Write back what no reader needs any more; restart the log when it has become long."""
    if queries.checkpoint() > MAX_LOG_PAGES:
        queries.restart_log(_BUSY_TIMEOUT_MS, _WRITER_PATIENCE_SECONDS)
