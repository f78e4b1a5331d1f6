"""Reads the event log so that a reader can continue from a number without a gap.

up_to = reading.last_certain_id()
rows = reading.between(after, up_to)        # next time: after = up_to
"""

from __future__ import annotations

from datetime import datetime

from django.db.models import QuerySet

from reef_site.common.eventlog.models import Event
from reef_site.common.eventlog.queries import last_certain_id as last_certain_id
from reef_site.common.eventlog.queries import last_id as last_id


def between(after: int, up_to: int) -> QuerySet[Event]:
    """Return the events behind `after`, up to and with `up_to`, oldest first."""
    return Event.objects.filter(pk__gt=after, pk__lte=up_to).order_by("pk")


def last_before(moment: datetime) -> int:
    """Return the number after which all events of this time and later come; 0 for all events."""
    later = Event.objects.filter(at__gte=moment).order_by("pk").values_list("pk", flat=True)
    # Times of several hosts may be out of order; the lowest number is on the safe side.
    first = later.first()
    return last_certain_id() if first is None else first - 1
