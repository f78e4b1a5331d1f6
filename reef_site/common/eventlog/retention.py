"""Deletion of old events; nothing else deletes any."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db.models import Max, Min

from reef_site.common import clock
from reef_site.common.eventlog.models import Event
from reef_site.common.retention import delete_in_batches


def prune() -> int:
    """Delete events beyond the age and number that the settings allow; return how many."""
    old = Event.objects.filter(at__lt=clock.now() - timedelta(days=settings.EVENT_DAYS))
    deleted = delete_in_batches(old.order_by("at"))
    if last := _last_surplus():
        deleted += delete_in_batches(Event.objects.filter(pk__lte=last).order_by("pk"))
    return deleted


def _last_surplus() -> int:
    """Return the number of the newest event beyond the limit; 0 if there is none."""
    ends = Event.objects.aggregate(first=Min("pk"), last=Max("pk"))
    # Numbers may have gaps, so there are at most so many events; to count them takes long.
    if ends["first"] is None or ends["last"] - ends["first"] < settings.EVENT_ROWS:
        return 0
    keys = Event.objects.order_by("-pk").values_list("pk", flat=True)
    return keys[settings.EVENT_ROWS :].first() or 0
