"""Messages to lieutenants, and their images."""

from __future__ import annotations

import hashlib
from typing import Self

from django.db import models
from django.db.models import Q
from django.utils import timezone

from lieutenants.states import MessageState, Mode
from reef_site.common.ids import new_ulid


class MessageQuerySet(models.QuerySet["Message"]):
    def undecided(self) -> Self:
        """Messages neither accepted nor rejected yet."""
        return self.filter(state__in=[MessageState.QUEUED, MessageState.DELIVERED])

    def pending(self) -> Self:
        """Messages that were sent and that the agent has not begun."""
        accepted = Q(state=MessageState.ACCEPTED, taken_up_at__isnull=True)
        return self.filter(accepted | Q(state__in=[MessageState.QUEUED, MessageState.DELIVERED]))

    def not_sent(self) -> Self:
        """Queued messages that are not on their way to the agent either."""
        return self.filter(state=MessageState.QUEUED, evidence__isnull=True)

    def queue_of(self, lieutenant_id: str) -> Self:
        """A lieutenant's queued messages in the order in which they are sent."""
        queued = self.filter(lieutenant=lieutenant_id, state=MessageState.QUEUED)
        return queued.in_queue_order()

    def positions(self, lieutenant_id: str) -> dict[str, int]:
        """Map a lieutenant's messages that can be changed to their positions, from 1, in order."""
        rows = self.filter(lieutenant=lieutenant_id).not_sent().in_queue_order()
        return {pk: number for number, pk in enumerate(rows.values_list("pk", flat=True), start=1)}

    def in_queue_order(self) -> Self:
        """Messages that were moved by their place, then the others by time."""
        return self.order_by("place", "created_at", "id")


class Message(models.Model):
    """A message to a lieutenant and its delivery state."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    lieutenant = models.ForeignKey("Lieutenant", models.CASCADE, related_name="messages")
    text = models.TextField()
    mode = models.CharField(max_length=10, choices=Mode.choices)
    mode_asked = models.CharField(max_length=10, choices=Mode.choices)
    note = models.CharField(max_length=200, blank=True)
    actor = models.CharField(max_length=200, blank=True)
    idempotency_key = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001
    sent_digest = models.CharField(
        max_length=64,
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text="SHA-256 of the text as it was sent to reef, if it was changed in the queue.",
    )
    state = models.CharField(
        max_length=10, choices=MessageState.choices, default=MessageState.QUEUED
    )
    evidence = models.JSONField(null=True, blank=True, help_text="The agent's own reply.")
    created_at = models.DateTimeField(default=timezone.now)
    delivered_at = models.DateTimeField(null=True, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    taken_up_at = models.DateTimeField(null=True, blank=True)
    place = models.IntegerField(
        default=0,
        db_default=0,
        help_text="Below 0 once the queue was sorted by hand; new messages come after.",
    )

    objects = MessageQuerySet.as_manager()

    # Number of characters of `text` that the query for a page did not load.
    left_out = 0

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["lieutenant", "idempotency_key"], name="one_message_an_idempotency_key"
            )
        ]
        indexes = [
            models.Index(fields=["lieutenant", "state"], name="message_by_state"),
            models.Index(fields=["lieutenant", "created_at", "id"], name="message_of_lieutenant"),
            models.Index(fields=["created_at", "id"], name="message_by_time"),
        ]

    def __str__(self) -> str:
        return self.text[:60]

    @staticmethod
    def digest_of(text: str) -> str:
        """Return the SHA-256 of a message's text, as `sent_digest` has it."""
        return hashlib.sha256(text.encode()).hexdigest()


class MessageImage(models.Model):
    """An image that was sent with a message."""

    message = models.ForeignKey(Message, models.CASCADE, related_name="images")
    number = models.PositiveSmallIntegerField(help_text="Its position in the message, from 0.")
    media_type = models.CharField(max_length=40)
    size = models.PositiveIntegerField(help_text="In bytes.")
    digest = models.CharField(max_length=64, help_text="SHA-256 of the data.")
    data = models.BinaryField()

    class Meta:
        ordering = ["message", "number"]
        constraints = [
            models.UniqueConstraint(fields=["message", "number"], name="one_image_a_number")
        ]

    def __str__(self) -> str:
        return f"{self.media_type}, {self.size} bytes"
