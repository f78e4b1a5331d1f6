"""Messages to subscribers: the body of a webhook call, and the text of an e-mail."""

from __future__ import annotations

import smtplib
from collections.abc import Sequence
from typing import Any

import orjson
from django.conf import settings
from django.core.mail import EmailMessage

from reef_site.activity.models import Channel, Delivery, Form, Subscriber
from reef_site.activity.personal import texts
from reef_site.activity.serializers import event_json
from reef_site.activity.visibility import sight_of
from reef_site.common import clock, webhook_secret, webhooks
from reef_site.common.errors import ReefError
from reef_site.common.eventlog.models import Event
from reef_site.common.webhooks import Answer
from versconfig.screening import sources

Json = dict[str, Any]
# A delivery, and its event; a test has none.
Item = tuple[Delivery, Event | None]
EVENT_HEADER = "Reef-Event"
DELIVERY_HEADER = "Reef-Delivery"


class MailFailed(ReefError):
    """The mail server did not take the message."""

    status = 502


def send(subscriber: Subscriber, items: Sequence[Item]) -> Answer:
    """Send these events at once. Raises WebhookFailed, MailFailed.

    A webhook gets one of them: its body is the event as `GET /events` returns it. The headers
    `Reef-Event` and `Reef-Delivery` are the same in every attempt.
    """
    if subscriber.is_personal:
        return _tell(subscriber, items)
    bodies = [_covered(_body(subscriber, *item)) for item in items]
    if subscriber.channel == Channel.EMAIL:
        return _mail(subscriber, bodies)
    ((delivery, event),), (body,) = items, bodies
    headers = {
        EVENT_HEADER: str(event.pk) if event else "test",
        DELIVERY_HEADER: str(delivery.pk),
    }
    return webhooks.call(subscriber.url, orjson.dumps(body), headers, subscriber.sealed_secret)


def _tell(subscriber: Subscriber, items: Sequence[Item]) -> Answer:
    """Send a person all of these as one message."""
    events = [event for _, event in items if event is not None]
    told = texts.notices(events) or [texts.test_notice()]
    if subscriber.channel == Channel.EMAIL:
        return _send_mail(f"reef: {texts.title(told)}", texts.mail_text(told), subscriber.email)
    sight = sight_of(subscriber.owner)
    # What only some may read of an event is in its text or not at all.
    seen = [event_json(each, with_detail=each.topic not in sight.bare) for each in events]
    body = orjson.dumps(texts.message(subscriber.form, told, [_covered(each) for each in seen]))
    headers = {DELIVERY_HEADER: str(items[0][0].pk)}
    if subscriber.form == Form.GENERIC:
        return webhooks.call(subscriber.url, body, headers, subscriber.sealed_secret)
    return webhooks.call(webhook_secret.decrypt(subscriber.sealed_secret), body, headers)


def _body(subscriber: Subscriber, delivery: Delivery, event: Event | None) -> Json:
    if event is not None:
        return event_json(event)
    detail: Json = {"text": "This is a test."}
    facts = {"id": None, "at": delivery.since, "kind": delivery.kind}
    return {**facts, "subject": subscriber.name, "vmId": None, "actor": "", "detail": detail}


def _covered(body: Json) -> Json:
    """Return the body with its time as text, and with all secrets covered."""
    body = {**body, "at": clock.format_timestamp(body["at"])}
    covered: Json = sources.current(recheck=True).cover_value(body)
    return covered


def _mail(subscriber: Subscriber, bodies: Sequence[Json]) -> Answer:
    first = bodies[0]
    more = f" and {len(bodies) - 1} more" if len(bodies) > 1 else ""
    subject = f"reef: {first['kind']} {first['subject']}{more}"
    return _send_mail(subject, "\n".join(map(_line, bodies)) + "\n", subscriber.email)


def _send_mail(subject: str, text: str, to: str) -> Answer:
    message = EmailMessage(
        # Line breaks in a subject would be further headers; Django refuses them.
        " ".join(subject.split())[:200],
        text,
        settings.DEFAULT_FROM_EMAIL,
        [to],
    )
    try:
        message.send()
    except (OSError, smtplib.SMTPException) as error:
        raise MailFailed(f"the mail server: {type(error).__name__} {error}".strip()) from None
    return Answer(0, "the mail server took it")


def _line(body: Json) -> str:
    detail = ", ".join(f"{name}: {value}" for name, value in (body["detail"] or {}).items())
    about = " ".join(filter(None, [body["at"], body["kind"], body["subject"]]))
    by = f" by {body['actor']}" if body["actor"] else ""
    # Each event has one line, which no text of a detail may imitate.
    return " ".join(f"{about}{by}{f' ({detail})' if detail else ''}".split())
