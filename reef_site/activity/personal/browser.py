"""Notifications that open pages fetch and show."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from reef_site.activity.models import Channel, Delivery, DeliveryState, Presence, Subscriber
from reef_site.activity.personal import pacing, texts
from reef_site.activity.subscribers.attempts import entry
from reef_site.common import clock
from reef_site.common.eventlog.models import Event
from reef_site.common.webhooks import Answer

Json = dict[str, Any]
# What no page has fetched by then is not shown any more.
GIVE_UP_AFTER = timedelta(days=1)
NO_PAGE = "no page of reef was open for a day"
SHOWN = Answer(0, "shown by a page of reef")


def note_presence(user_id: int) -> None:
    """Note that a page of this person is visible."""
    Presence.objects.update_or_create(user_id=user_id, defaults={"seen_at": clock.now()})


def take(user_id: int) -> list[Json]:
    """Return what the pages of this person shall show now; no other page gets it again."""
    mine = Subscriber.objects.active().filter(owner=user_id, channel=Channel.BROWSER)
    return [each for subscriber in mine for each in _take(subscriber)]


def _take(subscriber: Subscriber) -> list[Json]:
    some = pacing.next_deliveries(subscriber)
    events = Event.objects.in_bulk([each.event_number for each in some if each.event_number])
    items = [(each, events.get(each.event_number or 0)) for each in some]
    gone = [each for each, event in items if event is None and each.event_number]
    pacing.skip(gone, "not shown: the event was deleted, since it is too old")
    kept = pacing.without_skipped(subscriber, [item for item in items if item[0] not in gone])
    claimed = [event for delivery, event in kept if _claim(delivery)]
    told = texts.notices([event for event in claimed if event is not None])
    if None in claimed:
        told.append(texts.test_notice())
    return [{"title": each.text, "kind": each.kind, "path": each.path} for each in told]


def _claim(delivery: Delivery) -> bool:
    """Note that it is shown; only one of two pages succeeds."""
    waiting = Delivery.objects.filter(pk=delivery.pk, state=DeliveryState.WAITING)
    return bool(
        waiting.update(
            state=DeliveryState.DELIVERED,
            attempts=delivery.attempts + 1,
            ended_at=clock.now(),
            log=[entry("", SHOWN)],
        )
    )


def give_up() -> None:
    """End what no page has fetched for too long."""
    old = Delivery.objects.filter(
        subscriber__channel=Channel.BROWSER,
        state=DeliveryState.WAITING,
        since__lt=clock.now() - GIVE_UP_AFTER,
    )
    old.update(state=DeliveryState.FAILED, ended_at=clock.now(), log=[entry(NO_PAGE)])
