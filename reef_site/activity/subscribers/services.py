"""Use cases of subscribers, for root and operators only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Least

from reef_site.activity.models import TEST, Channel, Delivery, DeliveryState, Subscriber
from reef_site.common import clock, webhook_addresses
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import BadInput, Conflict, NotFound
from reef_site.common.eventlog import reading
from reef_site.common.ids import new_secret
from reef_site.common.webhooks import url_problem
from vmtree import permissions

# Each may have a sender of its own.
MAX_SUBSCRIBERS = 50


@dataclass(frozen=True)
class Written:
    """A subscriber, and its secret if that was generated just now."""

    subscriber: Subscriber
    secret: str = ""


def check_permission(by: object) -> None:
    """Raise Forbidden unless the caller may see and change subscribers."""
    permissions.check(by, permissions.Action.MANAGE_RULES, None)


def find(subscriber_id: int, *, by: object) -> Subscriber:
    """Return the subscriber of this id. Raises NotFound, Forbidden."""
    check_permission(by)
    found = Subscriber.objects.shared().filter(pk=subscriber_id).first()
    if found is None:
        raise NotFound("subscriber not found")
    return found


def create(fields: dict[str, Any], *, by: object, secret: str | None = None) -> Written:
    """Create a subscriber, which gets the events from now on.

    A webhook without a secret gets a generated one. Raises BadInput, Conflict, Forbidden.
    """
    check_permission(by)
    subscriber = Subscriber(**fields, created_by=str(by)[:200])
    if Subscriber.objects.shared().count() >= MAX_SUBSCRIBERS:
        raise Conflict(f"there are {MAX_SUBSCRIBERS} subscribers already; delete one first")
    subscriber.position = reading.last_certain_id()
    generated = ""
    if subscriber.channel == Channel.WEBHOOK:
        generated = "" if secret else new_secret()
        subscriber.set_secret(secret or generated)
    check(subscriber, is_new_url=True)
    _save(subscriber)
    return Written(subscriber, generated)


@transaction.atomic
def change(
    subscriber_id: int, fields: dict[str, Any], *, by: object, secret: str | None = None
) -> Subscriber:
    """Change the given fields. While it is paused (`is_active`), events wait for it.

    Raises NotFound, BadInput, Conflict, Forbidden.
    """
    find(subscriber_id, by=by)
    subscriber = Subscriber.objects.select_for_update().get(pk=subscriber_id)
    for name, value in fields.items():
        setattr(subscriber, name, value)
    if secret:
        subscriber.set_secret(secret)
    # A new address deserves a new attempt.
    subscriber.failures, subscriber.retry_at = 0, None
    check(subscriber, is_new_url="url" in fields)
    # `position` and the lease belong to the workers.
    _save(subscriber, [*fields, "sealed_secret", "failures", "retry_at"])
    dispatch("activity.distribute")
    return subscriber


def delete(subscriber_id: int, *, by: object) -> None:
    """Delete a subscriber with its deliveries. Raises NotFound, Forbidden."""
    find(subscriber_id, by=by).delete()


def test(subscriber_id: int, *, by: object) -> Delivery:
    """Send a message that belongs to no event. Raises NotFound, Conflict, Forbidden."""
    subscriber = find(subscriber_id, by=by)
    if not subscriber.is_active:
        raise Conflict("the subscriber is paused")
    delivery = Delivery.objects.create(subscriber=subscriber, kind=TEST)
    send_now(subscriber)
    return delivery


def replay(delivery_id: int, subscriber_id: int, *, by: object) -> Delivery:
    """Deliver again what has ended. Raises NotFound, Conflict, Forbidden."""
    subscriber = find(subscriber_id, by=by)
    delivery = subscriber.deliveries.filter(pk=delivery_id).first()
    if delivery is None:
        raise NotFound("delivery not found")
    if not _send_again(Delivery.objects.filter(pk=delivery.pk)):
        raise Conflict("it waits to be delivered already")
    send_now(subscriber)
    delivery.refresh_from_db()
    return delivery


def replay_after(subscriber_id: int, number: int, *, by: object) -> int:
    """Deliver again all events behind this number that the log still has.

    Return how many deliveries there were before; events that did not pass an earlier filter come
    in addition. Raises NotFound, Forbidden.
    """
    subscriber = find(subscriber_id, by=by)
    with transaction.atomic():
        mine = Subscriber.objects.filter(pk=subscriber.pk)
        mine.update(position=Least(F("position"), number))
        count = _send_again(subscriber.deliveries.filter(event_number__gt=number))
    send_now(subscriber)
    return count


# -- helpers -------------------------------------------------------------------------------------


def _send_again(deliveries: Any) -> int:
    now = clock.now()
    return int(
        deliveries.exclude(state=DeliveryState.WAITING).update(
            state=DeliveryState.WAITING, attempts=0, since=now, due_at=now, ended_at=None
        )
    )


def send_now(subscriber: Subscriber) -> None:
    """Have a worker try at once, even if the last attempt has just failed."""
    Subscriber.objects.filter(pk=subscriber.pk).update(retry_at=None)
    dispatch("activity.distribute")
    dispatch("activity.deliver", subscriber.pk)


def check(subscriber: Subscriber, *, is_new_url: bool) -> None:
    """Raise BadInput unless the fields fit together."""
    if subscriber.channel == Channel.BROWSER:
        return
    if subscriber.channel == Channel.WEBHOOK:
        problem = url_problem(subscriber.url) if subscriber.url else "is required for a webhook"
        if is_new_url and not problem:
            problem = webhook_addresses.problem_of(subscriber.url)
        if problem:
            raise BadInput(f"url: {problem}", "url")
        if subscriber.email:
            raise BadInput("email: a webhook has none", "email")
        return
    if not settings.HAS_EMAIL:
        raise BadInput("channel: there is no mail server; set REEF_EMAIL_URL", "channel")
    if subscriber.url:
        raise BadInput("url: a subscriber by e-mail has none", "url")
    try:
        validate_email(subscriber.email)
        Subscriber._meta.get_field("email").run_validators(subscriber.email)
    except ValidationError:
        raise BadInput("email: must be an e-mail address", "email") from None


def _save(subscriber: Subscriber, fields: list[str] | None = None) -> None:
    try:
        with transaction.atomic():
            subscriber.save(update_fields=fields)
    except IntegrityError:
        raise Conflict(f"name: there is a subscriber '{subscriber.name}' already") from None
