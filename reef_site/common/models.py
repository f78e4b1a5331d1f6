"""Rows of no app in particular."""

from __future__ import annotations

from django.db import models


class Tick(models.Model):
    """One periodic task: when it was sent last, and when a worker last began with it.

    All times are by the clock of the database. `generation` is the fence: it grows with each
    sending, and a worker begins only with the newest one, once.
    """

    name = models.CharField(primary_key=True, max_length=100)
    period_seconds = models.FloatField()
    generation = models.BigIntegerField(default=0)
    sent_at = models.DateTimeField(null=True, blank=True)
    sent_by = models.CharField(max_length=255, blank=True)
    begun_generation = models.BigIntegerField(default=0)
    begun_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        app_label = "reef_site"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
