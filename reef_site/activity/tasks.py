"""Celery tasks of subscribers. Each may run twice, late or never."""

from __future__ import annotations

from celery import shared_task

from reef_site.activity.personal import browser
from reef_site.activity.subscribers import delivery, distribution
from reef_site.common.ticks import tick_task


@shared_task(name="activity.distribute", soft_time_limit=50, time_limit=60)
def distribute() -> None:
    """Make deliveries of new events."""
    distribution.distribute()


@shared_task(name="activity.deliver", soft_time_limit=20, time_limit=30)
def deliver(subscriber_id: int) -> None:
    """Send what is due to one subscriber."""
    delivery.begin(subscriber_id)


@tick_task("activity.tick", soft_time_limit=50, time_limit=60)
def tick() -> None:
    """Find what no task came for."""
    distribution.distribute()
    browser.give_up()
