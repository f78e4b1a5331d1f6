"""Times of notifications: gathered, and not in quiet hours. What is over by then is left out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from reef_site.activity.models import Delivery, DeliveryState, Presence, Subscriber
from reef_site.activity.personal import kinds
from reef_site.activity.subscribers.attempts import entry
from reef_site.common import clock
from reef_site.common.eventlog.models import Event

Item = tuple[Delivery, Event | None]
# Things that one message tells about.
MAX_IN_MESSAGE = 50
# Visible pages report themselves twice in this time.
PRESENT_FOR = timedelta(seconds=75)
PAGE_WAS_OPEN = "not sent: a page of reef was open"
IS_OVER = "not sent: it was over before"


def next_deliveries(subscriber: Subscriber) -> list[Delivery]:
    """Return what to send now as one message: a test, else all that waits once something is due.

    In quiet hours there is nothing; the next attempt is at their end.
    """
    now = clock.now()
    due = subscriber.deliveries.due(now)
    if tests := list(due.filter(event_number=None)[:1]):
        return tests
    if not due.exists():
        return []
    if end := subscriber.quiet_end(now):
        Subscriber.objects.filter(pk=subscriber.pk).update(retry_at=end)
        return []
    waiting = subscriber.deliveries.filter(state=DeliveryState.WAITING)
    return list(waiting.order_by("event_number", "pk")[:MAX_IN_MESSAGE])


def without_skipped(subscriber: Subscriber, items: Sequence[Item]) -> list[Item]:
    """Return what is worth telling; the others are noted as not sent."""
    events = [event for _, event in items if event is not None]
    if not events:
        return list(items)
    if subscriber.only_away and is_here(subscriber):
        skip([delivery for delivery, _ in items], PAGE_WAS_OPEN)
        return []
    holding = kinds.still_holding(events)
    over = [delivery for delivery, event in items if event and event.pk not in holding]
    skip(over, IS_OVER)
    return [item for item in items if item[0] not in over]


def is_here(subscriber: Subscriber) -> bool:
    """Return whether the person has a visible page of reef open."""
    since = clock.now() - PRESENT_FOR
    return Presence.objects.filter(user=subscriber.owner_id, seen_at__gte=since).exists()


def skip(deliveries: Sequence[Delivery], why: str) -> None:
    """Note that these are not sent."""
    mine = Delivery.objects.filter(
        pk__in=[each.pk for each in deliveries], state=DeliveryState.WAITING
    )
    mine.update(
        state=DeliveryState.SKIPPED, ended_at=clock.now(), log=[entry("", None) | {"answer": why}]
    )
