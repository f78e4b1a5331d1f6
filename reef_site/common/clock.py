"""Time: now, timestamps as text, the clock that all hosts share, ages, jumps of the wall clock.

    row.seen_at = clock.now()
    body["seenAt"] = clock.format_timestamp(row.seen_at)      # 2026-11-22T06:21:09.098Z
    since = clock.parse_timestamp(query["since"], "since")    # BadInput names the field

`now` is this host's clock. What hosts compare with each other (ticks, followers, calls) goes by
`database_now`. Whoever stores a deadline expects that somebody sets the clock back (`is_over`).
"""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, tzinfo

from django.db import connection
from django.db.models import Q
from django.utils import timezone

from reef_site.common import queries
from reef_site.common.errors import BadInput

# Smaller corrections are the usual work of a time service.
MIN_JUMP_SECONDS = 2.0
# A lease of another host may end this much later than its clock should allow.
SKEW = timedelta(minutes=15)
# Farther years have no UTC, or none in the time zone of pages.
_MIN_YEAR, _MAX_YEAR = 1000, 9998


def now() -> datetime:
    """Return the current time in whole milliseconds, as precise as timestamps on the wire."""
    moment = timezone.now()
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def format_timestamp(moment: datetime) -> str:
    """Return UTC with three digits of milliseconds, such as 2026-11-22T06:21:09.098Z."""
    return f"{moment.astimezone(UTC).isoformat(timespec='milliseconds')[:-6]}Z"


def parse_iso(text: str) -> datetime:
    """Parse an ISO 8601 timestamp that reef or a provider wrote; without an offset it is UTC.

    Raises ValueError.
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_timestamp(text: str, field: str) -> datetime:
    """Parse an ISO 8601 timestamp of a request; the result is in UTC, which is also the default.

    Raises BadInput, which names `field`.
    """
    try:
        # A plus sign in a query string is decoded as a space.
        moment = parse_iso(text.strip().replace(" ", "+") if "T" in text else text).astimezone(UTC)
        if not _MIN_YEAR <= moment.year <= _MAX_YEAR:
            raise ValueError("out of range")
        return moment
    except (ValueError, OverflowError):
        raise BadInput(f"{field}: must be a time such as 2026-11-22T06:21:09.098Z", field) from None


def database_now() -> datetime:
    """Return the time by the clock that all hosts share: that of the database.

    SQLite has none of its own, and all its users are on one host.
    """
    if connection.vendor != "postgresql":
        return timezone.now()
    return queries.clock_timestamp().astimezone(UTC)


def midnight(day: date, zone: tzinfo) -> datetime:
    """Return the moment at which the day begins in the zone."""
    return datetime.combine(day, datetime.min.time(), tzinfo=zone)


def age_seconds(moment: datetime, now: datetime) -> float:
    """Return how long ago `moment` was; 0 for one that lies in the future."""
    return max(0.0, (now - moment).total_seconds())


def is_over(field: str, now: datetime, longest: timedelta) -> Q:
    """Match rows whose lease or pause `field` is null, over, or later than it can have been set.

    `longest` is how far ahead the field is set at most. A value farther ahead was written before
    the clock was set back, and does not count.
    """
    unset = Q(**{f"{field}__isnull": True})
    return unset | Q(**{f"{field}__lte": now}) | Q(**{f"{field}__gt": now + longest + SKEW})


class JumpDetector:
    """Notices when somebody sets the wall clock. Sleep of the machine does not count."""

    def __init__(self) -> None:
        self._drift = _drift()

    def jump_seconds(self) -> float:
        """Return by how many seconds the clock was set since the last call; 0 if it was not."""
        drift = _drift()
        jump, self._drift = drift - self._drift, drift
        return jump if abs(jump) >= MIN_JUMP_SECONDS else 0.0


def _drift() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
