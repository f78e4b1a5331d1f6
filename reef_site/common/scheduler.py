"""Scheduler of `celery beat`: intervals only, no file; rows record what was sent when.

Pauses are measured by the monotonic clock and checked against the database, so setting the wall
clock has no effect. Any number of schedulers may run.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from celery.beat import Scheduler
from django.db import DatabaseError, InterfaceError, close_old_connections

from reef_site.common import broker, clock, ticks

logger = logging.getLogger(__name__)

MAX_SLEEP_SECONDS = 5.0
RETRY_SECONDS = 1.0


@dataclass
class Periodic:
    """One periodic task, and the monotonic time at which to look at it next."""

    task: str
    period: float
    at: float = 0.0


class TickScheduler(Scheduler):
    """Scheduler that sends each tick of `beat_schedule` once a period, also beside others."""

    # Celery passes the file of `-s` to all schedulers; this one keeps none.
    def __init__(self, *args: Any, schedule_filename: str = "", **kwargs: Any) -> None:
        del schedule_filename
        super().__init__(*args, **kwargs)
        self._has_warned = False
        self._jumps = clock.JumpDetector()

    def setup_schedule(self) -> None:
        """Read the schedule; called by Celery."""
        entries = self.app.conf.beat_schedule
        self._due = [
            Periodic(entry["task"], float(entry["schedule"])) for entry in entries.values()
        ]

    def tick(self, *_: Any, **__: Any) -> float:
        """Send what is due; return how many seconds to sleep."""
        if self._jumps.jump_seconds():
            # Rows may lie in the future now; check all of them at once.
            for due in self._due:
                due.at = 0.0
        for due in self._due:
            if due.at <= time.monotonic():
                due.at = time.monotonic() + self._send_if_due(due)
        soonest = min((due.at for due in self._due), default=time.monotonic() + MAX_SLEEP_SECONDS)
        return min(MAX_SLEEP_SECONDS, max(0.01, soonest - time.monotonic()))

    def _send_if_due(self, due: Periodic) -> float:
        """Send one tick if it is due; return in how many seconds to look again."""
        try:
            close_old_connections()
            claim = ticks.claim(due.task, due.period)
            if claim.generation is None:
                return claim.wait
            if not broker.send_task_now(due.task, {"generation": claim.generation}):
                ticks.give_back(due.task, claim.generation)
                return RETRY_SECONDS
        except (DatabaseError, InterfaceError) as error:
            if not self._has_warned:
                logger.warning("the database does not answer (%s); ticks come later", error)
            self._has_warned = True
            return RETRY_SECONDS
        self._has_warned = False
        return claim.wait

    @property
    def info(self) -> str:
        """The line that `celery beat` prints at its start."""
        return "    . ticks -> database"
