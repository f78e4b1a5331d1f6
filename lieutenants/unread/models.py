"""Up to when a person has read a lieutenant's answers."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q


class ReadMark(models.Model):
    """A person has read the answers of a lieutenant up to a time; without one, of all."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="read_marks")
    lieutenant = models.ForeignKey(
        "lieutenants.Lieutenant", models.CASCADE, null=True, blank=True, related_name="read_marks"
    )
    read_until = models.DateTimeField()

    class Meta:
        app_label = "lieutenants"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "lieutenant"], name="one_read_mark_a_lieutenant"
            ),
            models.UniqueConstraint(
                fields=["user"],
                condition=Q(lieutenant__isnull=True),
                name="one_read_mark_for_all",
            ),
        ]

    def __str__(self) -> str:
        what = self.lieutenant_id or "all"
        return f"{what} until {self.read_until:%Y-%m-%d %H:%M}"
