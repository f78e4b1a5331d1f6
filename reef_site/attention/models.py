"""Dismissals of items on the attention list, shared by all operators, and snoozes of one person."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import models
from django.utils import timezone

KEPT_FOR = timedelta(days=90)
MAX_ROWS = 2000


class Seen(models.Model):
    """An item or a group that somebody has dismissed, valid while its cause is the same.

    The cause of a group is the time of its newest item: newer items are not dismissed.
    """

    kind = models.CharField(max_length=20)
    subject = models.CharField(max_length=300)
    cause = models.CharField(max_length=100)
    actor = models.CharField(max_length=200)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-at"]
        verbose_name_plural = "seen"
        constraints = [
            models.UniqueConstraint(fields=["kind", "subject"], name="one_seen_a_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"

    @classmethod
    def mark(cls, kind: str, subject: str, cause: str, actor: str) -> None:
        """Store a dismissal and delete those that are older than KEPT_FOR."""
        now = timezone.now()
        fields = {"cause": cause, "actor": actor[:200], "at": now}
        cls.objects.update_or_create(kind=kind, subject=subject, defaults=fields)
        cls.objects.filter(at__lt=now - KEPT_FOR).delete()


class Snooze(models.Model):
    """An item or a group that one person does not want to see until some time.

    As with `Seen`, another cause shows it again before.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="snoozes")
    kind = models.CharField(max_length=20)
    subject = models.CharField(max_length=300)
    cause = models.CharField(max_length=100)
    until = models.DateTimeField()

    class Meta:
        ordering = ["until"]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "kind", "subject"], name="one_snooze_a_subject"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject} until {self.until:%Y-%m-%d %H:%M}"

    @classmethod
    def put(
        cls,
        user: AbstractBaseUser | AnonymousUser,
        kind: str,
        subject: str,
        cause: str,
        until: datetime,
    ) -> None:
        """Store a snooze and delete this person's past ones."""
        mine = cls.objects.filter(user=user.pk)
        mine.filter(until__lte=timezone.now()).delete()
        fields = {"cause": cause, "until": until}
        cls.objects.update_or_create(user_id=user.pk, kind=kind, subject=subject, defaults=fields)
