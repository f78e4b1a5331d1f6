"""Deletion of old audit records; nothing else deletes any."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from reef_site.audit.models import Record

BATCH_SIZE = 2000


def prune() -> int:
    """Delete rows beyond the age and number that the settings allow; return how many."""
    oldest = timezone.now() - timedelta(days=settings.AUDIT_DAYS)
    keys = Record.objects.values_list("pk", flat=True)
    last_old = keys.filter(at__lt=oldest).order_by("-at", "-id").first()
    last_surplus = keys.order_by("-id")[settings.AUDIT_ROWS :].first()
    return _delete_up_to(max(last_old or 0, last_surplus or 0))


def _delete_up_to(last: int) -> int:
    """Delete in batches, so that no other writer waits for long; return how many rows."""
    deleted = 0
    while True:
        old = Record.objects.filter(pk__lte=last).order_by("pk")
        some = list(old.values_list("pk", flat=True)[:BATCH_SIZE])
        if not some:
            return deleted
        deleted += Record.objects.filter(pk__in=some).delete()[0]
