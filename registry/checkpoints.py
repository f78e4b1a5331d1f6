"""SQLite's write-ahead log is folded into the database beside the beats, not between them.

Whoever commits when the log is long folds it in, and waits for the disk meanwhile. The edge does
that twice a second on a connection of its own, so that no beat waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from django.db import Error as DatabaseError
from django.db import connection

logger = logging.getLogger(__name__)

EVERY_SECONDS = 0.5
# Pages of 4 kB. Of a longer log, the rest is folded in while writers wait, if that is quick.
LONG = 8000
_PATIENCE_MS = 10


class Checkpoints:
    """A thread that folds the log in; on PostgreSQL there is nothing to do."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reef-checkpoints", daemon=True)
        if connection.vendor == "sqlite":
            self._thread.start()

    def close(self) -> None:
        """End the thread; it is not waited for."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_SECONDS):
            try:
                fold()
            except DatabaseError as error:
                logger.warning("the log cannot be folded in: %s", error)
                connection.close()
            except Exception:
                # Whatever it is: without this thread the log would grow for ever.
                logger.exception("the log cannot be folded in")
                connection.close()
        connection.close()


def fold() -> None:
    """Fold in what no reader holds back; start the log over when it has become long."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
        _, pages, _ = cursor.fetchone()
        if pages > LONG:
            cursor.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
            # In turn, for else busy writers would always be sooner.
            wrapper: Any = connection
            with wrapper.next_in_turn(time.monotonic() + 1.0):
                cursor.execute("PRAGMA wal_checkpoint(RESTART)")
                cursor.fetchone()
