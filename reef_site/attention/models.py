"""Dismissals of items on the attention list, shared by all operators."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils import timezone

KEPT_FOR = timedelta(days=90)
MAX_ROWS = 2000


class Kind(models.TextChoices):
    """Kinds of subjects."""

    LIEUTENANT = "lieutenant", "lieutenant"
    VM = "vm", "VM"
    PROVISIONING = "provisioning", "provisioning"
    FINDING = "finding", "finding"
    RULE = "rule", "rule"
    HOST = "host", "host"


class Seen(models.Model):
    """An item or a group that somebody has dismissed, valid while its cause is the same.

    The cause of a group is the time of its newest item: newer items are not dismissed.
    """

    kind = models.CharField(max_length=20, choices=Kind.choices)
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
