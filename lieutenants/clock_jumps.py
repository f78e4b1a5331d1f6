"""What happens to this host's lieutenants when somebody sets the wall clock.

How long one has been idle or silent is the distance of two wall-clock times. When the clock is set,
the earlier one is moved along, so that nobody is called idle or stalled because of it, and nothing
that is due soon waits until the clock is there again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta

from django.db import connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from bootloader.provisioning import clock_jumps as provisionings
from lieutenants import failing
from lieutenants.models import Lieutenant, Process
from lieutenants.rules.models import Event, Firing, FiringState
from lieutenants.session import Session
from reef_site.common import clock

logger = logging.getLogger(__name__)

# No pause before another start is longer.
LONGEST_PAUSE = timedelta(minutes=5)
_MARKS = (
    *("status_since", "last_activity_at", "restart_at", "leased_until"),
    *("waiting_since", "failing_since", "rewind_asked_at", "session_since"),
)


class ClockWatch:
    """Looked at by the one follower of a host."""

    def __init__(self) -> None:
        self._jumps = clock.JumpDetector()
        self._first = True

    def look(self, sessions: Iterable[Session]) -> None:
        """Move the marks of this host's rows if the clock was set since the last look."""
        if self._first:
            self._first = False
            _clamp()
        if jump := self._jumps.jump_seconds():
            direction = "forward" if jump > 0 else "back"
            logger.warning("the clock was set %s by %.0f s", direction, abs(jump))
            rebase(timedelta(seconds=jump), sessions)


def rebase(jump: timedelta, sessions: Iterable[Session] = ()) -> None:
    """Move all marks of this host's lieutenants by the jump."""
    for session in sessions:
        lieutenant = session.lieutenant
        lieutenant.last_activity_at += jump
        if lieutenant.failing_since is not None:
            lieutenant.failing_since += jump
        lieutenant.failures = failing.moved(lieutenant.failures, jump)
    with transaction.atomic():
        here = Lieutenant.objects.here().living()
        for row in here.only("pk", "status_since", "failing_since", "failures", "session_name"):
            _move_firings(row, jump)
            if row.failures:
                series = failing.moved(row.failures, jump)
                here.filter(pk=row.pk, session_name=row.session_name).update(failures=series)
        here.update(**{mark: F(mark) + jump for mark in _MARKS})
        Process.objects.live().here().update(started_at=F("started_at") + jump)
        if connection.vendor != "postgresql":
            # There is no other host, so what all hosts share is of this one's clock, too.
            Firing.objects.filter(state=FiringState.WAITING).update(due_at=F("due_at") + jump)
            provisionings.rebase(jump)


def _move_firings(row: Lieutenant, jump: timedelta) -> None:
    """A rule has fired once for this cause, and it is the same cause still."""
    fired = Firing.objects.filter(subject=row.pk)
    of_failures = Q(event=Event.LIEUTENANT_FAILING)
    for events, since in ((~of_failures, row.status_since), (of_failures, row.failing_since)):
        if since is not None:
            fired.filter(events, cause_at=since).update(cause_at=since + jump)


def _clamp() -> None:
    """Bring marks that lie in the future to now: the clock was set back while nobody looked."""
    now = timezone.now()
    here = Lieutenant.objects.here().living()
    for mark in ("status_since", "last_activity_at"):
        here.filter(**{f"{mark}__gt": now}).update(**{mark: now})
    late = now + LONGEST_PAUSE
    here.filter(restart_at__gt=late).update(restart_at=late)
