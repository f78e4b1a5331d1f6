"""Threads that wait for the network, a few at a time, and hold up no shutdown.

The threads of `concurrent.futures` are joined when the process ends; a login may take long.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from django.db import connections

logger = logging.getLogger(__name__)


class DaemonPool:
    """Runs jobs in the order in which they came. A thread ends when no job is left."""

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._jobs: deque[Callable[[], object]] = deque()
        self._threads = 0
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], object]) -> None:
        """Run a job soon."""
        with self._lock:
            self._jobs.append(job)
            if self._threads >= self._most:
                return
            self._threads += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._threads -= 1
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:
                logger.exception("%s: a job failed", self._name)
            finally:
                connections.close_all()
