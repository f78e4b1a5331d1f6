"""Celery tasks of the site: the worker's heartbeat, cleanup, outside calls."""

from __future__ import annotations

from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from lieutenants.models import LifeSign
from reef_site.accounts import request_counts, throttle
from reef_site.accounts.sessions import SessionStore
from reef_site.common import outside
from reef_site.common.ticks import tick_task


@tick_task("reef.tick")
def tick() -> None:
    """Record the worker's heartbeat, which shows that beat, broker and worker work together."""
    LifeSign.give(f"worker@{settings.HOST}")
    LifeSign.objects.filter(at__lt=timezone.now() - timedelta(days=7)).delete()
    outside.forget_old()


@tick_task("reef.cleanup")
def clean_up() -> None:
    """Delete expired sessions and sign-in links, and old attempts."""
    SessionStore.clear_expired()
    throttle.forget_old()
    request_counts.forget_old()


@shared_task(name="reef.outside_call", soft_time_limit=20, time_limit=30)
def outside_call(call_id: str) -> None:
    """Run an outside call whose request does not wait for it."""
    outside.run(call_id)
