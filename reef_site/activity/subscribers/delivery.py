"""Sends what is due to one subscriber: one after the other, in the order of events.

Each subscriber has at most one sender, which runs in a thread of its own, so that a receiver that
hangs holds up no worker and no other subscriber.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from enum import Enum, auto

from django.db import connections

from reef_site.activity.models import LEASE, Channel, Delivery, DeliveryState, Subscriber
from reef_site.activity.personal import pacing
from reef_site.activity.subscribers import messages
from reef_site.activity.subscribers.attempts import MAX_LOG, entry
from reef_site.activity.subscribers.messages import Item
from reef_site.common import clock
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import ReefError
from reef_site.common.eventlog.models import Event
from reef_site.common.webhooks import Answer, WebhookFailed

logger = logging.getLogger(__name__)

# A run ends after this time and the call that it is making.
RUN_SECONDS = 60.0
FIRST_PAUSE = timedelta(seconds=10)
MAX_PAUSE = timedelta(minutes=15)
# A delivery fails when it was tried so often and for so long.
MIN_ATTEMPTS = 7
GIVE_UP_AFTER = timedelta(days=1)
# Events that one e-mail tells about.
MAX_IN_EMAIL = 50


class Result(Enum):
    """The result of an attempt to deliver."""

    SENT = auto()
    FAILED = auto()
    NOTHING_LEFT = auto()


def begin(subscriber_id: int) -> None:
    """Send what is due in a thread, unless a worker does so already."""
    if Subscriber.objects.due(clock.now()).filter(pk=subscriber_id).exists():
        thread = threading.Thread(
            target=_run_apart, args=[subscriber_id], name="reef-delivery", daemon=True
        )
        thread.start()


def _run_apart(subscriber_id: int) -> None:
    try:
        run(subscriber_id)
    except Exception:
        # The lease ends by itself, then a tick tries again.
        logger.exception("events cannot be sent to subscriber %s", subscriber_id)
    finally:
        connections.close_all()


def run(subscriber_id: int) -> None:
    """Send what is due, until nothing is left or an attempt fails."""
    until = Subscriber.objects.active().sent().rested(clock.now()).acquire(subscriber_id, LEASE)
    if until is None:
        return
    subscriber = Subscriber.objects.select_related("owner").get(pk=subscriber_id)
    end = time.monotonic() + RUN_SECONDS
    result = Result.SENT
    while result is Result.SENT and time.monotonic() < end:
        # One attempt by e-mail may take two minutes.
        until = Subscriber.objects.extend(subscriber_id, until, LEASE)
        if until is None:
            return
        result = _send_next(subscriber)
    Subscriber.objects.release(subscriber_id, until)
    if result is not Result.NOTHING_LEFT:
        pause = _pause_after(subscriber.failures) if result is Result.FAILED else timedelta()
        dispatch("activity.deliver", subscriber_id, countdown=pause.total_seconds())


def _send_next(subscriber: Subscriber) -> Result:
    """Send the next event that is due; by e-mail, several of them."""
    mine = Subscriber.objects.active().filter(pk=subscriber.pk)
    if not mine.exists():
        return Result.NOTHING_LEFT
    some = pacing.next_deliveries(subscriber) if subscriber.is_personal else _next(subscriber)
    if not some:
        return Result.NOTHING_LEFT
    items = with_events(some)
    if subscriber.is_personal:
        items = pacing.without_skipped(subscriber, items)
    if not items or not (problem := _attempt(subscriber, items)):
        mine.exclude(failures=0).update(failures=0, retry_at=None)
        subscriber.failures = 0
        return Result.SENT
    subscriber.failures += 1
    pause = _pause_after(subscriber.failures)
    mine.update(failures=subscriber.failures, retry_at=clock.now() + pause)
    logger.info("subscriber %s: %s; next attempt in %s", subscriber, problem, pause)
    return Result.FAILED


def _next(subscriber: Subscriber) -> list[Delivery]:
    due = subscriber.deliveries.due(clock.now()).order_by("event_number", "pk")
    return list(due[: MAX_IN_EMAIL if subscriber.channel == Channel.EMAIL else 1])


def with_events(some: Sequence[Delivery]) -> list[Item]:
    """Return the deliveries with their events. Those whose events are deleted have failed."""
    numbers = [each.event_number for each in some if each.event_number is not None]
    found, items = Event.objects.in_bulk(numbers), list[Item]()
    for delivery in some:
        if delivery.event_number is None or delivery.event_number in found:
            items.append((delivery, found.get(delivery.event_number or 0)))
        else:
            _note(delivery, entry("the event was deleted, since it is too old"), is_over=True)
    return items


def _attempt(subscriber: Subscriber, items: Sequence[Item]) -> str:
    """Make one attempt for these, and note what came of it. Return the problem, if any."""
    began, problem, answer = time.monotonic(), "", Answer(0, "")
    try:
        answer = messages.send(subscriber, items)
    except WebhookFailed as error:
        problem, answer = str(error), Answer(error.code or 0, error.answer)
    except ReefError as error:
        problem = str(error)
    except Exception as error:
        # Not noted, it would be repeated for ever.
        logger.exception("cannot send to subscriber %s", subscriber)
        problem = f"internal error: {type(error).__name__}"
    line = entry(problem, answer, time.monotonic() - began)
    for delivery, _ in items:
        _note(delivery, line)
    return problem


def _note(delivery: Delivery, line: dict[str, object], *, is_over: bool = False) -> None:
    """Write the result of an attempt into the row; with `is_over` there is no further one."""
    now, attempts, state = clock.now(), delivery.attempts + 1, DeliveryState.DELIVERED
    if line["problem"]:
        is_over |= attempts >= MIN_ATTEMPTS and now - delivery.since > GIVE_UP_AFTER
        state = DeliveryState.FAILED if is_over else DeliveryState.WAITING
    Delivery.objects.filter(pk=delivery.pk).update(
        state=state,
        attempts=attempts,
        due_at=now + _pause_after(attempts),
        ended_at=None if state == DeliveryState.WAITING else now,
        log=[*delivery.log, line][-MAX_LOG:],
    )


def _pause_after(failures: int) -> timedelta:
    """Return how long to wait after so many attempts: 10 s, 30 s, 90 s, … up to 15 minutes."""
    longer: int = 3 ** min(max(failures, 1) - 1, 9)
    return min(MAX_PAUSE, FIRST_PAUSE * longer)
