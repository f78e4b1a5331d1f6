"""Measurements of the database and of data folders."""

from __future__ import annotations

from django.db import models


class Measurement(models.Model):
    """The newest measurement of a data folder, or of the database (`DATABASE`)."""

    DATABASE = "database"

    subject = models.CharField(primary_key=True, max_length=26, editable=False)
    host = models.CharField(max_length=255)
    at = models.DateTimeField()
    seconds = models.FloatField(help_text="How long it took.")
    facts = models.JSONField(default=dict)

    class Meta:
        ordering = ["host", "subject"]

    def __str__(self) -> str:
        return f"{self.subject} on {self.host}"
