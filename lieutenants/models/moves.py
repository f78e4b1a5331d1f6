"""The transitions of lieutenants as rows."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from lieutenants.states import Status


class Move(models.Model):
    """A change of a lieutenant's status, with its reason."""

    lieutenant = models.ForeignKey("Lieutenant", models.CASCADE, related_name="moves")
    old = models.CharField(max_length=20, choices=Status.choices)
    new = models.CharField(max_length=20, choices=Status.choices)
    reason = models.TextField()
    actor = models.CharField(max_length=200)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.old} → {self.new}"
