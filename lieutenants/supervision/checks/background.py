"""Work of the follower beside its loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from django.db import connections

logger = logging.getLogger(__name__)


class Background:
    """Threads for what takes time, one at a time: journals must not wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @property
    def is_busy(self) -> bool:
        """Return whether some work is under way."""
        return self._lock.locked()

    def run(self, work: Callable[[], object]) -> None:
        """Do this in a thread, after the work before it. Failures are logged."""

        def run() -> None:
            try:
                with self._lock:
                    work()
            except Exception:
                logger.exception("settling failed; the next reconcile tries again")
            finally:
                connections.close_all()

        threading.Thread(target=run, name="reef-settle", daemon=True).start()
