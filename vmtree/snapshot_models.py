"""The row of each snapshot: what it holds, where its file lies, whether it is as it was written."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self

from django.db import models
from django.db.models import Q

from reef_site.common import clock
from reef_site.common.leases import LeaseQuerySet

# Much longer than writing takes; after it a writer counts as dead.
LEASE = timedelta(minutes=10)


class Why(models.TextChoices):
    """What a snapshot was made for."""

    HOURLY = "hourly", "hourly"
    ASKED = "asked", "asked for"
    CHANGE = "change", "before a large change"


class State(models.TextChoices):
    """How far a snapshot is."""

    WRITING = "writing", "being written"
    READY = "ready", "ready"
    FAILED = "failed", "failed"
    DAMAGED = "damaged", "damaged"


class SnapshotQuerySet(LeaseQuerySet["Snapshot"]):
    def ready(self) -> Self:
        """Those whose file was complete, and not found otherwise since."""
        return self.filter(state=State.READY)

    def written(self) -> Self:
        """Those that have, or had, a file."""
        return self.filter(state__in=[State.READY, State.DAMAGED])

    def abandoned(self, at: datetime) -> Self:
        """Those whose writer has not been heard of for too long."""
        return self.free(at, LEASE).filter(state=State.WRITING)


class Snapshot(models.Model):
    """The tree, its history and the registry as of one moment, in a file of their own.

    A row is claimed by its writer for `leased_until`; each attempt has a file name of its own, so
    that one who comes too late changes nothing.
    """

    file = models.CharField(max_length=100, unique=True)
    why = models.CharField(max_length=10, choices=Why.choices)
    made_by = models.CharField(max_length=200)
    # The full hour an hourly one stands for: of two writers one gets it.
    hour = models.DateTimeField(null=True, blank=True, unique=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.WRITING)
    # What went wrong with the writing, or is wrong with the file.
    trouble = models.CharField(max_length=500, blank=True)
    host = models.CharField(max_length=255, blank=True)
    began_at = models.DateTimeField(default=clock.now)
    leased_until = models.DateTimeField(null=True, blank=True)
    # The moment of the rows in it.
    at = models.DateTimeField(null=True, blank=True)
    size = models.BigIntegerField(default=0, help_text="Bytes.")
    sha256 = models.CharField(max_length=64, blank=True)
    # Rows of each table.
    counts = models.JSONField(default=dict, blank=True)
    pinned = models.BooleanField(default=False)
    checked_at = models.DateTimeField(null=True, blank=True)
    # The file's time of change when it was checked: whoever alters it moves that.
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
