"""Deletion of old audit records; nothing else deletes any."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from reef_site.audit.models import Record
from reef_site.common.retention import delete_in_batches


def prune() -> int:
    """Delete rows beyond the age and number that the settings allow; return how many."""
    oldest = timezone.now() - timedelta(days=settings.AUDIT_DAYS)
    keys = Record.objects.values_list("pk", flat=True)
    last_old = keys.filter(at__lt=oldest).order_by("-at", "-id").first()
    last_surplus = keys.order_by("-id")[settings.AUDIT_ROWS :].first()
    last = max(last_old or 0, last_surplus or 0)
    return delete_in_batches(Record.objects.filter(pk__lte=last).order_by("pk"))
