"""The worker's own sign of life."""

from __future__ import annotations

from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from lieutenants.models import LifeSign
from reef_site.common import outside
from reef_site.common.ticks import tick_task


@tick_task("reef.tick")
def tick() -> None:
    """Show that beat, broker and worker work together."""
    LifeSign.give(f"worker@{settings.HOST}")
    LifeSign.objects.filter(at__lt=timezone.now() - timedelta(days=7)).delete()
    outside.forget_old()


@shared_task(name="reef.outside_call", soft_time_limit=20, time_limit=30)
def outside_call(call_id: str) -> None:
    """Ask somebody outside, for a request that does not wait."""
    outside.run(call_id)
