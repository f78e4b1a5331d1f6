"""When a VM should be heard of next, and what it is called when it is not. Pure.

A VM's `interval` is the longest pause between two beats that it was asked to keep. Agents in the
field beat once a minute whatever they are asked, so no deadline is shorter than they need.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

from django.db.models import TextChoices

# The fewest seconds between two beats of a VM, and how many beats a second the fleet may send.
SHORTEST_SECONDS = 30.0
BEATS_A_SECOND = 500
LONGEST_SECONDS = 3600.0
# Beats come this much sooner or later than the interval, so that VMs that were started together
# do not beat together.
JITTER = 0.25
# What agents in the field keep that do not read the answer.
FIELD_SECONDS = 60.0

LATE_FACTOR = 2.5
SILENT_FACTOR = 5.0
# For so long after reef itself was down nobody is called silent.
GRACE = timedelta(minutes=5)
# A mark this far in the future was written before the clock was set back.
TOLERANCE = timedelta(seconds=5)
# Without a sign of reef itself for so long, it was down.
DOWN = timedelta(seconds=60)


class Liveness(TextChoices):
    """What is known of a VM by the time of its last sign."""

    LIVE = "live", "live"
    LATE = "late", "late"
    SILENT = "silent", "silent"


def interval_ms(fleet: int) -> int:
    """Milliseconds between two beats of each of `fleet` VMs: grows so that writes stay bounded."""
    seconds = max(SHORTEST_SECONDS, min(LONGEST_SECONDS, fleet / BEATS_A_SECOND))
    return int(seconds * 1000)


def next_beat_ms(interval: int) -> int:
    """When a VM of this interval should beat next: the interval with jitter."""
    return int(interval * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311


def deadlines(seen: datetime, interval: int) -> tuple[datetime, datetime]:
    """From when on a running VM that was seen then is late, and from when on silent."""
    seconds = max(FIELD_SECONDS, interval * (1 + JITTER) / 1000)
    late, silent = LATE_FACTOR * seconds, SILENT_FACTOR * seconds
    return seen + timedelta(seconds=late), seen + timedelta(seconds=silent)


def word(
    late_after: datetime | None, silent_after: datetime | None, at: datetime, *, grace: bool
) -> Liveness:
    """What a VM is called at a moment. Without deadlines nothing is overdue: it is live."""
    if late_after is None or at < late_after:
        return Liveness.LIVE
    if silent_after is None or at < silent_after or grace:
        return Liveness.LATE
    return Liveness.SILENT
