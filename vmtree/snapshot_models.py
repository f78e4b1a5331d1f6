"""One row for each snapshot: its contents, its file and the state of the file."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self

from django.db import models
from django.db.models import Q

from reef_site.common import clock
from reef_site.common.leases import LeaseQuerySet

# Much longer than writing takes. A writer whose lease is over counts as dead.
LEASE = timedelta(minutes=10)


class Why(models.TextChoices):
    """The occasion of a snapshot."""

    HOURLY = "hourly", "hourly"
    ASKED = "asked", "asked for"
    CHANGE = "change", "before a large change"


class State(models.TextChoices):
    """The progress of a snapshot."""

    WRITING = "writing", "being written"
    READY = "ready", "ready"
    FAILED = "failed", "failed"
    DAMAGED = "damaged", "damaged"


class SnapshotQuerySet(LeaseQuerySet["Snapshot"]):
    def ready(self) -> Self:
        """Return snapshots whose file was complete at the last check."""
        return self.filter(state=State.READY)

    def written(self) -> Self:
        """Return snapshots that have, or had, a file."""
        return self.filter(state__in=[State.READY, State.DAMAGED])

    def abandoned(self, at: datetime) -> Self:
        """Return unfinished snapshots whose writer's lease is over."""
        return self.free(at, LEASE).filter(state=State.WRITING)


class Snapshot(models.Model):
    """The tree, its history and the registry as of one moment, in one file.

    The writer claims the row until `leased_until`. Each attempt has a file name of its own, so that
    a late writer cannot damage the next attempt.
    """

    file = models.CharField(max_length=100, unique=True)
    why = models.CharField(max_length=10, choices=Why.choices)
    made_by = models.CharField(max_length=200)
    # The full hour of an hourly snapshot. Unique, so that only one of two writers gets it.
    hour = models.DateTimeField(null=True, blank=True, unique=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.WRITING)
    # Why writing failed, or what is wrong with the file.
    trouble = models.CharField(max_length=500, blank=True)
    host = models.CharField(max_length=255, blank=True)
    began_at = models.DateTimeField(default=clock.now)
    leased_until = models.DateTimeField(null=True, blank=True)
    # The time of the rows in it.
    at = models.DateTimeField(null=True, blank=True)
    size = models.BigIntegerField(default=0, help_text="Bytes.")
    sha256 = models.CharField(max_length=64, blank=True)
    # Number of rows by table.
    counts = models.JSONField(default=dict, blank=True)
    pinned = models.BooleanField(default=False)
    checked_at = models.DateTimeField(null=True, blank=True)
    # The file's modification time at the last check: altering the file changes it.
    touched_ns = models.BigIntegerField(default=0)

    objects = SnapshotQuerySet.as_manager()

    class Meta:
        ordering = ["-began_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=State.values), name="snapshot_state_is_known"
            ),
            models.CheckConstraint(condition=Q(why__in=Why.values), name="snapshot_why_is_known"),
            models.CheckConstraint(
                condition=Q(state__in=["writing", "failed"])
                | (Q(at__isnull=False) & ~Q(sha256="")),
                name="snapshot_is_ready_with_its_hash",
            ),
            models.CheckConstraint(
                condition=~Q(state="writing") | Q(leased_until__isnull=False),
                name="snapshot_is_written_by_somebody",
            ),
        ]
        indexes = [models.Index(fields=["state", "began_at"], name="snapshot_by_state")]

    def __str__(self) -> str:
        return self.file
