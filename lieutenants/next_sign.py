"""When the next sign of a lieutenant is due: as it was declared for once, or by its settings.

A declaration holds until the turn ends, until another one, or until it is kept: by a sign of the
agent itself, since a tool that runs is no sign of its agent. The settings expect some activity in
each period. In both cases it is late only after the grace.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from django.conf import settings

from lieutenants.states import Status, WaitKind

if TYPE_CHECKING:
    from lieutenants.models import Lieutenant

MAX_REASON = 500
# How far ahead a sign can be declared, and how long a period or a grace can be, in seconds.
MAX_AHEAD = 7 * 86_400
MAX_PERIOD = 30 * 86_400
BY_SETTINGS = "settings"


@dataclass(frozen=True)
class NextSign:
    """A sign that is expected, and from when on it is late. `heard_at` is the newest sign."""

    due_at: datetime
    late_at: datetime
    reason: str
    declared_by: str
    heard_at: datetime

    @classmethod
    def of(cls, row: Lieutenant) -> Self | None:
        """Return what is expected of a lieutenant; None if nothing is, or if it waits for people.

        Who rests has nothing to declare, but may have settings.
        """
        if row.status not in (Status.IDLE, Status.WORKING) or row.wait_kind == WaitKind.PERSON:
            return None
        return cls._declared(row) or cls._by_settings(row)

    @classmethod
    def _declared(cls, row: Lieutenant) -> Self | None:
        due, late = row.next_sign_at, row.next_sign_late_at
        if due is None or late is None:
            return None
        heard = row.last_activity_at
        if row.wait_kind == WaitKind.TOOL and row.waiting_since:
            heard = row.waiting_since
        if heard >= due:
            return None
        return cls(due, late, row.next_sign_reason, row.next_sign_by, heard)

    @classmethod
    def _by_settings(cls, row: Lieutenant) -> Self | None:
        if not row.sign_period_seconds:
            return None
        heard = max(row.last_activity_at, row.status_since)
        due = heard + timedelta(seconds=row.sign_period_seconds)
        late = due + timedelta(seconds=row.sign_grace_seconds)
        return cls(due, late, "its settings expect a sign in each period", BY_SETTINGS, heard)

    def is_held(self, now: datetime) -> bool:
        """Return whether silence is all right."""
        return now < self.late_at

    def is_overdue(self, now: datetime) -> bool:
        """Return whether it is late, and nothing was heard just now."""
        just_now = timedelta(seconds=settings.STALL_NOTICE_SECONDS)
        if self.declared_by == BY_SETTINGS:
            just_now = timedelta(0)
        return now >= self.late_at and now - self.heard_at > just_now
