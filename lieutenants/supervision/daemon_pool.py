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

Job = Callable[[], object]


class DaemonPool:
    """Runs jobs in the order in which they came, urgent ones first.

    A thread ends when no job is left.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._urgent: deque[Job] = deque()
        self._jobs: deque[Job] = deque()
        self._threads = 0
        self._lock = threading.Lock()

    def submit(self, job: Job, *, is_urgent: bool = False) -> None:
        """Run a job soon."""
        with self._lock:
            (self._urgent if is_urgent else self._jobs).append(job)
        self.wake()

    def wake(self) -> None:
        """Start another thread if a job waits and there may be one more.

        A job for which the system had no thread left waits for this, or for the next job.
        """
        with self._lock:
            if self._threads >= self._most or not (self._urgent or self._jobs):
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._threads -= 1
            logger.warning("%s: no thread for a job yet: %s", self._name, error)

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._run(job)
        except BaseException:
            with self._lock:
                self._threads -= 1
            raise

    def _next(self) -> Job | None:
        """Return the next job; None ends the thread."""
        with self._lock:
            if self._urgent:
                return self._urgent.popleft()
            if self._jobs:
                return self._jobs.popleft()
            self._threads -= 1
            return None

    def _run(self, job: Job) -> None:
        try:
            job()
        except Exception:
            logger.exception("%s: a job failed", self._name)
        try:
            connections.close_all()
        except Exception:
            logger.exception("%s: a database connection was not closed", self._name)
