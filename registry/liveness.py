"""Deadlines of heartbeats and the liveness that follows from them. Pure.

A VM's `interval` is the longest pause between two heartbeats that it was told to keep. Agents in
the field send one a minute whatever they are told, so no deadline is shorter than that requires.
"""

from __future__ import annotations

import math
import random
from datetime import datetime, timedelta

from django.db.models import TextChoices

# The shortest and the longest interval of a VM.
MIN_INTERVAL_SECONDS = 30.0
MAX_INTERVAL_SECONDS = 3600.0
# The most heartbeats a second of the whole fleet. Up to an interval of about a minute it is lower:
# then a fleet of 10,000 VMs costs less than a tenth of a processor.
MAX_HEARTBEATS_PER_SECOND = 500
CALM_HEARTBEATS_PER_SECOND, CALM_INTERVAL_SECONDS = 140, 75.0
# Such intervals are rounded up: a heartbeat is cheapest while the VM's interval stays the same.
STEP_SECONDS = 15.0
# Fraction by which an interval varies, so that VMs started together do not send together.
JITTER = 0.25
# Interval of agents in the field that ignore the response.
FIELD_INTERVAL_SECONDS = 60.0

LATE_FACTOR = 2.5
SILENT_FACTOR = 5.0
# After a downtime of reef no VM is called silent for this long.
GRACE_PERIOD = timedelta(minutes=5)
# A time stamp this far in the future was written before the clock was set back.
CLOCK_TOLERANCE = timedelta(seconds=5)
# Reef counts as down without a sign of itself for this long.
DOWN_AFTER = timedelta(seconds=60)


class Liveness(TextChoices):
    """The state of a running VM by the time of its last heartbeat."""

    LIVE = "live", "live"
    LATE = "late", "late"
    SILENT = "silent", "silent"


def interval_ms(fleet: int) -> int:
    """Return milliseconds between heartbeats; grows with the fleet so that writes stay bounded."""
    steps = math.ceil(fleet / CALM_HEARTBEATS_PER_SECOND / STEP_SECONDS)
    calm = min(steps * STEP_SECONDS, CALM_INTERVAL_SECONDS)
    seconds = max(MIN_INTERVAL_SECONDS, calm, fleet / MAX_HEARTBEATS_PER_SECOND)
    return int(min(seconds, MAX_INTERVAL_SECONDS) * 1000)


def next_heartbeat_ms(interval: int) -> int:
    """Return the interval with jitter."""
    return int(interval * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311


def deadlines(seen: datetime, interval: int) -> tuple[datetime, datetime]:
    """Return when a running VM that was seen at `seen` becomes late, and when silent."""
    seconds = max(FIELD_INTERVAL_SECONDS, interval * (1 + JITTER) / 1000)
    late, silent = LATE_FACTOR * seconds, SILENT_FACTOR * seconds
    return seen + timedelta(seconds=late), seen + timedelta(seconds=silent)


def liveness_at(
    late_after: datetime | None, silent_after: datetime | None, at: datetime, *, grace: bool
) -> Liveness:
    """Return the liveness at a moment. A VM without deadlines is live."""
    if late_after is None or at < late_after:
        return Liveness.LIVE
    if silent_after is None or at < silent_after or grace:
        return Liveness.LATE
    return Liveness.SILENT
