"""Use cases of a person's channels. Everybody has their own, and sees no others."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
from django.contrib.auth.models import User
from django.db import transaction

from reef_site.activity.models import TEST, Channel, Delivery, DeliveryState, Form, Subscriber
from reef_site.activity.subscribers import services
from reef_site.common import clock, webhook_secret
from reef_site.common.errors import BadInput, Conflict, NotFound
from reef_site.common.eventlog import reading
from reef_site.common.ids import new_secret
from vmtree import permissions

MAX_CHANNELS = 10
TEST_PAUSE = timedelta(minutes=1)
PACING = ("wait_seconds", "quiet_from", "quiet_until", "quiet_zone", "only_away")


def channels_of(user: User) -> list[Subscriber]:
    """Return the channels of a person, in the order in which they were made."""
    return list(Subscriber.objects.filter(owner=user).order_by("pk"))


def find(pk: int, user: User) -> Subscriber:
    """Return a channel of this person. Raises NotFound."""
    found = Subscriber.objects.filter(owner=user, pk=pk).first()
    if found is None:
        raise NotFound("notification channel not found")
    return found


def create(user: User, fields: dict[str, Any], *, url: str = "") -> services.Written:
    """Create a channel, which gets the events from now on.

    `fields` are columns without `url`, which is that of a webhook. Raises BadInput, Conflict.
    """
    channel = Subscriber(**fields, owner=user, created_by=str(user)[:200])
    if len(channels_of(user)) >= MAX_CHANNELS:
        raise Conflict(f"you have {MAX_CHANNELS} channels already; delete one first")
    channel.position = reading.last_certain_id()
    secret = ""
    if channel.channel == Channel.WEBHOOK:
        secret = _set_url(channel, url)
    services.check(channel, is_new_url=bool(url))
    if channel.email != user.email and permissions.is_read_only_account(user):
        raise BadInput("email: must be that of your account", "email")
    channel.name = f"{_label(channel)}: {channel.address}"[:100]
    channel.save()
    return services.Written(channel, secret)


def change(pk: int, user: User, fields: dict[str, Any]) -> Subscriber:
    """Change what is told and when. Raises NotFound."""
    channel = find(pk, user)
    known = {name: value for name, value in fields.items() if name in (*PACING, "wanted")}
    # New hours may begin or end now.
    Subscriber.objects.filter(pk=channel.pk).update(**known, retry_at=None)
    return find(pk, user)


@transaction.atomic
def switch(pk: int, user: User, *, on: bool) -> None:
    """Switch a channel on or off; what happens while it is off is not told. Raises NotFound."""
    channel = find(pk, user)
    mine = Subscriber.objects.filter(pk=channel.pk)
    mine.update(is_active=on, failures=0, retry_at=None, position=reading.last_certain_id())
    channel.deliveries.filter(state=DeliveryState.WAITING).delete()


def delete(pk: int, user: User) -> None:
    """Delete a channel with its outbox. Raises NotFound."""
    find(pk, user).delete()


def test(pk: int, user: User) -> Delivery:
    """Send a test at once, also in quiet hours. Raises NotFound, Conflict.

    The next one is allowed a minute later.
    """
    channel = find(pk, user)
    if not channel.is_active:
        raise Conflict("the channel is off")
    now = clock.now()
    if channel.deliveries.filter(kind=TEST, due_at__gt=now - TEST_PAUSE).exists():
        raise Conflict("a test was sent within the last minute; its result is in the outbox")
    delivery = Delivery.objects.create(subscriber=channel, kind=TEST, since=now, due_at=now)
    services.send_now(channel)
    return delivery


def _label(channel: Subscriber) -> str:
    is_chat = channel.channel == Channel.WEBHOOK and channel.form != Form.GENERIC
    label = channel.get_form_display() if is_chat else channel.get_channel_display()
    return label[:1].upper() + label[1:]


def _set_url(channel: Subscriber, url: str) -> str:
    """Set the address of a webhook; return the generated secret of a signed one."""
    if permissions.is_read_only_account(channel.owner):
        raise BadInput("channel: webhooks need operator rights", "channel")
    channel.url = url
    if channel.form == Form.GENERIC:
        secret = new_secret()
        channel.set_secret(secret)
        return secret
    # Whoever knows the whole URL may post there.
    services.check(channel, is_new_url=True)
    channel.sealed_secret = webhook_secret.encrypt(url)
    host = httpx.URL(url)
    channel.url = f"{host.scheme}://{host.netloc.decode('ascii')}/…"
    return ""
