"""Agents that run on a host without an open process row."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


class Request(models.TextChoices):
    """Requests that an operator can make."""

    TAKE_UP = "take-up", "take up"
    END = "end", "end"


class UnknownAgent(models.Model):
    """An agent that runs without being followed, found by the follower of its host.

    The row is deleted when the agent has ended or is followed again.
    """

    run = models.CharField(primary_key=True, max_length=64, help_text="The name of its folder.")
    data_folder = models.CharField(max_length=64, db_index=True, help_text="Where its run lies.")
    host = models.CharField(max_length=255)
    lieutenant_id = models.CharField(max_length=64)
    name = models.CharField(max_length=64, blank=True, help_text="Its lieutenant, if one is known.")
    directory = models.CharField(max_length=1024)
    handle = models.JSONField(default=dict)
    why = models.TextField(help_text="Why nobody follows it.")
    can_be_taken_up = models.BooleanField(default=False)
    found_at = models.DateTimeField(default=timezone.now)
    request = models.CharField(max_length=10, choices=Request.choices, blank=True)
    requested_at = models.DateTimeField(null=True, blank=True)
    requested_by = models.CharField(max_length=200, blank=True)
    problem = models.TextField(blank=True, help_text="Why the newest request came to nothing.")

    class Meta:
        app_label = "lieutenants"
        ordering = ["-found_at", "run"]

    def __str__(self) -> str:
        return f"{self.name or self.lieutenant_id} ({self.run})"
