"""The worker's own sign of life."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from lieutenants.models import LifeSign
from reef_site.common.ticks import tick_task


@tick_task("reef.tick")
def tick() -> None:
    """Show that beat, broker and worker work together."""
    LifeSign.give(f"worker@{settings.HOST}")
    LifeSign.objects.filter(at__lt=timezone.now() - timedelta(days=7)).delete()
