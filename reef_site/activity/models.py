"""Subscribers of the event log, and one delivery for each event that one of them gets."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, Q, Subquery

from reef_site.accounts import zones
from reef_site.activity.filters import EventFilter
from reef_site.common import clock, webhook_secret
from reef_site.common.leases import LeaseQuerySet

# Much longer than one call takes, and one run ends earlier (`delivery.RUN_SECONDS`).
LEASE = timedelta(minutes=3)
# The kind of a delivery that belongs to no event.
TEST = "subscriber.test"


class Channel(models.TextChoices):
    """The ways in which a subscriber gets events."""

    WEBHOOK = "webhook", "webhook"
    EMAIL = "email", "e-mail"
    # Only of a person: a page of reef fetches and shows what there is.
    BROWSER = "browser", "browser"


# Channels of subscribers that belong to nobody in particular.
SHARED_CHANNELS = (Channel.WEBHOOK, Channel.EMAIL)


class Form(models.TextChoices):
    """Formats of the body that a person's webhook gets."""

    GENERIC = "generic", "JSON, signed"
    SLACK = "slack", "Slack"
    DISCORD = "discord", "Discord"


class SubscriberQuerySet(LeaseQuerySet["Subscriber"]):
    def active(self) -> Self:
        """Subscribers that are not paused, and whose person may sign in."""
        return self.filter(Q(owner=None) | Q(owner__is_active=True), is_active=True)

    def shared(self) -> Self:
        """Subscribers that belong to no person; operators look after them."""
        return self.filter(owner=None)

    def sent(self) -> Self:
        """Subscribers that workers send to. Browsers fetch what there is for them."""
        return self.exclude(channel=Channel.BROWSER)

    def rested(self, at: datetime) -> Self:
        """Subscribers that may be tried: the last attempt went well, or is long enough ago."""
        return self.filter(Q(retry_at__isnull=True) | Q(retry_at__lte=at))

    def due(self, at: datetime) -> Self:
        """Active subscribers with deliveries to try now, which no worker tries already."""
        waiting = Delivery.objects.due(at).filter(subscriber=OuterRef("pk"))
        return self.free(at, LEASE).active().sent().rested(at).filter(Exists(waiting))


class Subscriber(models.Model):
    """Somebody who is sent the events that pass a filter."""

    # The person whose channel this is; null for a shared one.
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="channels"
    )
    name = models.CharField(max_length=100)
    channel = models.CharField(max_length=10, choices=Channel.choices)
    url = models.CharField("URL", max_length=500, blank=True)
    email = models.EmailField("e-mail address", blank=True)
    # `EventFilter.as_json`
    wanted = models.JSONField(default=dict, blank=True)
    # Of Slack and Discord the whole URL, which is a secret there.
    sealed_secret = models.TextField(blank=True, editable=False)
    form = models.CharField(max_length=10, choices=Form.choices, default=Form.GENERIC)
    # Only of a person: how long events are gathered, when nothing is sent, and whether an open page
    # of reef is enough.
    wait_seconds = models.PositiveIntegerField(default=0)
    quiet_from = models.TimeField(null=True, blank=True)
    quiet_until = models.TimeField(null=True, blank=True)
    quiet_zone = models.CharField(max_length=64, blank=True)
    only_away = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    # There are deliveries for all events up to this number.
    position = models.BigIntegerField(default=0)
    # Failed attempts since the last success, and when the next one may be.
    failures = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=clock.now)
    created_by = models.CharField(max_length=200)

    objects = SubscriberQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=(
                    (Q(channel="webhook") & ~Q(url=""))
                    | (Q(channel="email") & ~Q(email=""))
                    | Q(channel="browser", owner__isnull=False)
                ),
                name="subscriber_has_an_address",
            ),
            models.UniqueConstraint(
                fields=["name"], condition=Q(owner=None), name="one_shared_subscriber_a_name"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def filter(self) -> EventFilter:
        """Return which events it gets."""
        return EventFilter.of_json(self.wanted)

    @property
    def address(self) -> str:
        """Return the URL or the e-mail address."""
        if self.channel == Channel.BROWSER:
            return "open pages of reef"
        return self.url if self.channel == Channel.WEBHOOK else self.email

    @property
    def is_personal(self) -> bool:
        """Return whether it is a channel of one person."""
        return self.owner_id is not None

    def quiet_end(self, at: datetime) -> datetime | None:
        """Return when the quiet hours end that this moment is in, if it is in any."""
        begin, end = self.quiet_from, self.quiet_until
        if begin is None or end is None or begin == end:
            return None
        local = at.astimezone(zones.find(self.quiet_zone) or UTC)
        if not _is_between(local.time(), begin, end):
            return None
        days = timedelta(days=1 if local.time() >= end else 0)
        return datetime.combine(local.date() + days, end, tzinfo=local.tzinfo)

    def set_secret(self, text: str) -> None:
        """Set the encrypted webhook secret; does not save."""
        self.sealed_secret = webhook_secret.encrypt(text) if text else ""


def _is_between(now: time, begin: time, end: time) -> bool:
    """Return whether a time of day is in a span that may include midnight."""
    return begin <= now < end if begin < end else now >= begin or now < end


class DeliveryState(models.TextChoices):
    """State of a delivery."""

    WAITING = "waiting", "waiting"
    DELIVERED = "delivered", "delivered"
    FAILED = "failed", "failed"
    # Only of a person: it was over before, or a page was open.
    SKIPPED = "skipped", "not sent"


# States of deliveries to shared subscribers.
SHARED_STATES = (DeliveryState.WAITING, DeliveryState.DELIVERED, DeliveryState.FAILED)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def due(self, at: datetime) -> Self:
        """Deliveries to try now."""
        return self.filter(state=DeliveryState.WAITING, due_at__lte=at)

    def newest_of(self, subscribers: Iterable[Subscriber]) -> dict[int, Delivery]:
        """Map ids of subscribers to their newest deliveries; those without any are left out."""
        newest = self.filter(subscriber=OuterRef("pk")).order_by("-pk").values("pk")[:1]
        rows = Subscriber.objects.filter(pk__in=[each.pk for each in subscribers])
        keys = rows.values_list(Subquery(newest), flat=True)
        return {each.subscriber_id: each for each in self.filter(pk__in=list(keys))}


class Delivery(models.Model):
    """An event on its way to a subscriber, and what the receiver answered."""

    subscriber = models.ForeignKey(Subscriber, models.CASCADE, related_name="deliveries")
    # Not a foreign key: the retention of events knows no deliveries. Null for a test.
    event_number = models.BigIntegerField(null=True, blank=True)
    kind = models.CharField(max_length=60)
    state = models.CharField(
        max_length=10, choices=DeliveryState.choices, default=DeliveryState.WAITING
    )
    attempts = models.PositiveSmallIntegerField(default=0)
    # Since when it is tried: from its creation, or its last replay.
    since = models.DateTimeField(default=clock.now)
    due_at = models.DateTimeField(default=clock.now)
    ended_at = models.DateTimeField(null=True, blank=True)
    # The newest attempts: at, code, answer, problem, milliseconds.
    log = models.JSONField(default=list, blank=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "deliveries"
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber", "event_number"], name="one_delivery_an_event"
            ),
            models.CheckConstraint(
                condition=Q(state__in=DeliveryState.values), name="delivery_state_is_known"
            ),
        ]
        indexes = [
            models.Index(
                fields=["subscriber", "due_at"],
                condition=Q(state="waiting"),
                name="delivery_due",
            ),
            models.Index(fields=["subscriber", "id"], name="delivery_of_subscriber"),
            models.Index(fields=["ended_at"], name="delivery_by_end"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} to {self.subscriber}"

    @property
    def last_attempt(self) -> dict[str, Any]:
        """Return the newest attempt; empty before the first."""
        return dict(self.log[-1]) if self.log else {}


class Presence(models.Model):
    """The time at which a visible page of a person last reported itself."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="+"
    )
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.user} at {self.seen_at}"
