"""Keep in the rows of lieutenants whether and when their machines were heard of.

A change is written at once, the time of the last sign of life only now and then.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Case, DateTimeField, When
from django.utils import timezone

from lieutenants.models import Lieutenant
from lieutenants.sessions.session import Session
from reef_site.common import events

SAVE_SECONDS = 15.0
_BATCH = 200


class Contacts:
    """Collects when each session's machine was last heard, and writes that to the rows."""

    def __init__(self) -> None:
        self._heard: dict[str, datetime] = {}
        self._saved_at = -SAVE_SECONDS

    def note(self, session: Session, out_since: datetime | None, silent: float | None) -> None:
        """Note since when a machine is out of reach, and for how many seconds it was silent.

        `silent` is None without a connection, as for processes on this host.
        """
        lieutenant, now = session.lieutenant, timezone.now()
        if silent is not None and out_since is None:
            self._heard[lieutenant.pk] = now - timedelta(seconds=silent)
        is_in_reach = out_since is None
        # Nobody asks since when a supervisor on this host answers, unless it did not.
        is_usual = is_in_reach and lieutenant.is_local and lieutenant.in_reach is None
        if lieutenant.in_reach is is_in_reach or is_usual:
            return
        facts = {"in_reach": is_in_reach, "reach_since": out_since or now}
        if heard_at := self._heard.get(lieutenant.pk):
            facts["heard_at"] = heard_at
        Lieutenant.objects.here().filter(pk=lieutenant.pk).update(**facts)
        # Only now: what could not be written is tried again.
        lieutenant.in_reach, lieutenant.reach_since = is_in_reach, out_since or now
        self._heard.pop(lieutenant.pk, None)
        events.publish_lieutenant(lieutenant.pk)

    def forget(self, lieutenant: Lieutenant) -> None:
        """Note that nobody follows it any more."""
        self._heard.pop(lieutenant.pk, None)
        lieutenant.in_reach = lieutenant.reach_since = None
        mine = Lieutenant.objects.here().filter(pk=lieutenant.pk, in_reach__isnull=False)
        mine.update(in_reach=None, reach_since=None)

    def save(self, clock: float) -> None:
        """Write the times of the last signs of life, if that is due."""
        if not self._heard or clock - self._saved_at < SAVE_SECONDS:
            return
        self._saved_at = clock
        heard, self._heard = list(self._heard.items()), {}
        for start in range(0, len(heard), _BATCH):
            some = dict(heard[start : start + _BATCH])
            times = Case(
                *(When(pk=pk, then=at) for pk, at in some.items()), output_field=DateTimeField()
            )
            Lieutenant.objects.here().filter(pk__in=some).update(heard_at=times)
