"""Doorbells for the worker. Each re-reads the rows, so it may run twice, late or never."""

from __future__ import annotations

from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from lieutenants import runtime
from lieutenants.models import LifeSign


def host_queue(host: str) -> str:
    """The queue of the workers on one host."""
    return f"host.{host}"


@shared_task(name="lieutenants.settle", soft_time_limit=60, time_limit=80)
def settle(lieutenant_id: str) -> None:
    """Start or stop this lieutenant's process, if that is what its row wants."""
    runtime.settle(lieutenant_id)


@shared_task(name="lieutenants.tick")
def tick() -> None:
    """Show that beat, broker and worker work together. The follower reconciles by itself."""
    LifeSign.give(f"worker@{settings.HOST}")
    LifeSign.objects.filter(at__lt=timezone.now() - timedelta(days=7)).delete()
