"""Adjust timestamps of this host's lieutenants after a change of the wall clock.

Idle and silent times are differences of wall-clock times. When the clock is set, stored times are
shifted, so that no lieutenant counts as idle or stalled because of it, and nothing that is due soon
waits until the clock has caught up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta

from django.db import connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from bootloader.provisioning import clock_jumps as provisionings
from lieutenants.models import Lieutenant, Process
from lieutenants.sessions import failure_series
from lieutenants.sessions.session import Session
from reef_site.common import clock
from registry.rules.models import Event, Firing, FiringState

logger = logging.getLogger(__name__)

# Longer than any delay before a restart.
MAX_RESTART_DELAY = timedelta(minutes=5)
_TIMESTAMPS = (
    *("status_since", "last_activity_at", "restart_at", "leased_until"),
    *("waiting_since", "failing_since", "rewind_asked_at", "session_since"),
    *("reach_since", "heard_at", "waiting_until", "next_sign_at", "next_sign_late_at"),
)


class ClockMonitor:
    """Used by the one follower of a host."""

    def __init__(self) -> None:
        self._jumps = clock.JumpDetector()
        self._is_first_check = True

    def check(self, sessions: Iterable[Session]) -> None:
        """Shift this host's timestamps if the clock was set since the last call."""
        if self._is_first_check:
            self._is_first_check = False
            _clamp_future()
        if jump := self._jumps.jump_seconds():
            direction = "forward" if jump > 0 else "back"
            logger.warning("the clock was set %s by %.0f s", direction, abs(jump))
            rebase(timedelta(seconds=jump), sessions)


def rebase(jump: timedelta, sessions: Iterable[Session] = ()) -> None:
    """Shift all timestamps of this host's lieutenants by the jump."""
    for session in sessions:
        session.shift_times(jump)
    with transaction.atomic():
        here = Lieutenant.objects.here().active()
        for row in here.only("pk", "status_since", "failing_since", "failures", "session_name"):
            _move_firings(row, jump)
            if row.failures:
                series = failure_series.shifted(row.failures, jump)
                here.filter(pk=row.pk, session_name=row.session_name).update(failures=series)
        here.update(**{name: F(name) + jump for name in _TIMESTAMPS})
        Process.objects.live().here().update(started_at=F("started_at") + jump)
        if connection.vendor != "postgresql":
            # SQLite means that there is no other host, so shared rows follow this host's clock,
            # too.
            Firing.objects.filter(state=FiringState.WAITING).update(due_at=F("due_at") + jump)
            provisionings.rebase(jump)


def _move_firings(row: Lieutenant, jump: timedelta) -> None:
    """Shift the causes of rule executions along, so that no rule fires twice for one cause."""
    fired = Firing.objects.filter(subject=row.pk)
    of_failures = Q(event=Event.LIEUTENANT_FAILING)
    for events, since in ((~of_failures, row.status_since), (of_failures, row.failing_since)):
        if since is not None:
            fired.filter(events, cause_at=since).update(cause_at=since + jump)


def _clamp_future() -> None:
    """Set timestamps in the future to now: the clock was set back while no follower ran."""
    now = timezone.now()
    here = Lieutenant.objects.here().active()
    for name in ("status_since", "last_activity_at"):
        here.filter(**{f"{name}__gt": now}).update(**{name: now})
    late = now + MAX_RESTART_DELAY
    here.filter(restart_at__gt=late).update(restart_at=late)
