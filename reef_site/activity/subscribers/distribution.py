"""Makes deliveries of new events, and has them sent.

The position of a subscriber moves in the transaction that makes its deliveries, so each event gets
exactly one; a lost task only makes it later, since a tick looks again.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from reef_site.activity.models import Delivery, DeliveryState, Subscriber
from reef_site.activity.visibility import sight_of
from reef_site.common import clock
from reef_site.common.dispatch import dispatch
from reef_site.common.eventlog import reading
from reef_site.common.retention import delete_in_batches

BATCH_SIZE = 500
# Events of this time share one task.
COLLECT_SECONDS = 0.5

_lock = threading.Lock()
_last_dispatch = -COLLECT_SECONDS


def distribute_soon() -> None:
    """Have a worker distribute the events that were just committed, if anybody gets any."""
    global _last_dispatch
    with _lock:
        # A task that was sent within this time has not begun yet, and will find these, too.
        if time.monotonic() - _last_dispatch < COLLECT_SECONDS:
            return
        _last_dispatch = time.monotonic()
    if Subscriber.objects.active().exists():
        dispatch("activity.distribute", countdown=COLLECT_SECONDS)


def distribute() -> None:
    """Make the deliveries of all new events, and have those that are due sent."""
    up_to = reading.last_certain_id()
    behind = Subscriber.objects.active().filter(position__lt=up_to).select_related("owner")
    for subscriber in behind:
        while subscriber.position < up_to and _advance(subscriber, up_to):
            pass
    send_due()


def _advance(subscriber: Subscriber, up_to: int) -> bool:
    """Make deliveries of the next events; return False if another worker is doing that."""
    old = subscriber.position
    found = subscriber.filter.rows(reading.between(old, up_to))
    if subscriber.owner is not None:
        found = sight_of(subscriber.owner).rows(found)
    some = list(found.values_list("pk", "kind")[:BATCH_SIZE])
    # With fewer events than a batch has, all others up to there do not pass the filter.
    position = some[-1][0] if len(some) == BATCH_SIZE else up_to
    due = clock.now() + timedelta(seconds=subscriber.wait_seconds)
    with transaction.atomic():
        mine = Subscriber.objects.active().filter(pk=subscriber.pk, position=old)
        if not mine.update(position=position):
            return False
        Delivery.objects.bulk_create(
            [
                Delivery(subscriber=subscriber, event_number=number, kind=kind, due_at=due)
                for number, kind in some
            ],
            ignore_conflicts=True,
        )
    subscriber.position = position
    return True


def send_due() -> None:
    """Have workers send what is due, one task for each subscriber."""
    for pk in Subscriber.objects.due(clock.now()).values_list("pk", flat=True):
        dispatch("activity.deliver", pk)


def prune() -> int:
    """Delete deliveries that ended long ago; return how many."""
    oldest = clock.now() - timedelta(days=settings.DELIVERY_DAYS)
    old = Delivery.objects.exclude(state=DeliveryState.WAITING).filter(ended_at__lt=oldest)
    return delete_in_batches(old)
