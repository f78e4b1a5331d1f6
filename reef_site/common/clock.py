"""Wall-clock time that somebody may set: one clock for all hosts, ages, jumps, stale claims."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.db.models import Q
from django.utils import timezone

# Less is the usual work of a time service.
MIN_JUMP_SECONDS = 2.0
# A claim of another host may end this much later than its clock should allow.
SKEW = timedelta(minutes=15)


def database_now() -> datetime:
    """Return the time by the clock that all hosts share: that of the database.

    SQLite has none of its own, and all its users are on one host.
    """
    if connection.vendor != "postgresql":
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment.astimezone(UTC)


def age_seconds(moment: datetime, now: datetime) -> float:
    """Return how long ago `moment` was; 0 for one that lies in the future."""
    return max(0.0, (now - moment).total_seconds())


def is_over(field: str, now: datetime, longest: timedelta) -> Q:
    """Match rows whose claim or pause `field` is unset, over, or later than it can have been set.

    `longest` is what the field is set ahead at most. Farther ahead it was written before the clock
    was set back, and its holder does not count.
    """
    unset = Q(**{f"{field}__isnull": True})
    return unset | Q(**{f"{field}__lte": now}) | Q(**{f"{field}__gt": now + longest + SKEW})


class JumpDetector:
    """Notices when somebody sets the wall clock. Sleep of the machine is not a jump."""

    def __init__(self) -> None:
        self._drift = _drift()

    def look(self) -> float:
        """Return by how many seconds the clock was set since the last look; 0 if it was not."""
        drift = _drift()
        jump, self._drift = drift - self._drift, drift
        return jump if abs(jump) >= MIN_JUMP_SECONDS else 0.0


def _drift() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
