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


class CallState(models.TextChoices):
    """The states of a call."""

    WAITING = "waiting", "waiting"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"


class OutsideCall(models.Model):
    """A question to something outside of reef, such as a provider or a host, and its answer.

    A worker asks it, so that no request waits for others. Secrets are never kept here.
    """

    id = models.CharField(primary_key=True, max_length=32, editable=False)
    kind = models.CharField(max_length=60)
    arguments = models.JSONField(default=dict)
    made_by = models.CharField(max_length=200)
    state = models.CharField(max_length=10, choices=CallState.choices, default=CallState.WAITING)
    result = models.JSONField(default=dict)
    error = models.TextField(blank=True)
    error_status = models.PositiveSmallIntegerField(default=500)
    limit_seconds = models.FloatField()
    made_at = models.DateTimeField()
    sent_at = models.DateTimeField(help_text="When a worker was told last.")
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        app_label = "reef_site"
        ordering = ["-made_at"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(state__in=CallState.values), name="outside_call_state_is_known"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} ({self.state})"

    @property
    def is_over(self) -> bool:
        """Return whether the call is over: it has a result, or it has failed."""
        return self.state in (CallState.DONE, CallState.FAILED)
