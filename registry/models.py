"""Registered VMs with the deadlines of their heartbeats, gaps, and reef's own uptime."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from django.db import models
from django.db.models import Exists, OuterRef, Q

from reef_site.common import clock
from registry import liveness
from registry.liveness import Liveness
from vmtree import dna
from vmtree import names as vm_names
from vmtree.models import CompactEncoder, Node
from vmtree.queries.recursion import Links

# A smaller clock skew is not reported.
CLOCK_TOLERANCE_SECONDS = 60


class Role(models.TextChoices):
    """The role of a VM in the fleet. The values are those of the HTTP API."""

    INFRA = "infra", "infra"
    LIEUTENANT = "lieutenant", "lieutenant"
    WORKER = "worker", "worker"
    GOLDEN = "golden", "golden"
    CUSTOM = "custom", "custom"


class Status(models.TextChoices):
    """The last reported status of a VM."""

    RUNNING = "running", "running"
    PAUSED = "paused", "paused"
    STOPPED = "stopped", "stopped"


class VMQuerySet(models.QuerySet["VM"]):
    def late(self, at: datetime) -> Self:
        """Return VMs whose heartbeat is overdue, silent ones included."""
        return self.filter(late_after__lte=at)

    def silent(self, at: datetime) -> Self:
        """Return VMs believed dead; none right after a downtime of reef."""
        return self.none() if Watch.grace(at) else self.late(at).filter(silent_after__lte=at)

    def called(self, word: Liveness, at: datetime) -> Self:
        """Return VMs with this liveness; silent VMs do not count as late."""
        if word == Liveness.LIVE:
            return self.filter(Q(late_after__isnull=True) | Q(late_after__gt=at))
        if word == Liveness.SILENT:
            return self.silent(at)
        in_time = Q(silent_after__isnull=True) | Q(silent_after__gt=at)
        return self.late(at) if Watch.grace(at) else self.late(at).filter(in_time)

    def answering(self, at: datetime) -> Self:
        """Return running VMs that are not silent."""
        running = self.filter(status=Status.RUNNING)
        return running if Watch.grace(at) else running.filter(silent_after__gt=at)

    def without_place(self) -> Self:
        """Return VMs without an active node in the tree."""
        return self.filter(~Exists(Node.objects.active().filter(vm_id=OuterRef("pk"))))

    def newest_first(self) -> Self:
        """Order by last heartbeat, newest first, as the API lists them."""
        return self.order_by("-last_seen", "id")


class VM(models.Model):
    """A registered VM, and when it was last seen.

    The deadlines are null unless it is running: from others no heartbeat is expected.
    """

    id = models.CharField(primary_key=True, max_length=255)
    name = models.CharField(max_length=255, blank=True)
    role = models.CharField(max_length=20, choices=Role.choices)
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.RUNNING)
    address = models.CharField(max_length=1000, blank=True)
    # Text, not a foreign key: a parent may not be registered (yet, or any more).
    parent_vm_id = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001
    services = models.JSONField(default=list, blank=True, encoder=CompactEncoder)
    reef_config = models.JSONField(default=dna.empty, blank=True, encoder=CompactEncoder)
    # Agents distinguish absent from null: absent until it is set for the first time.
    metadata = models.JSONField(null=True, blank=True, encoder=CompactEncoder)
    has_metadata = models.BooleanField(default=False)
    registered_by = models.CharField(max_length=255)
    registered_at = models.DateTimeField(default=clock.now)
    last_seen = models.DateTimeField(default=clock.now)
    late_after = models.DateTimeField(null=True, blank=True)
    silent_after = models.DateTimeField(null=True, blank=True)
    interval_ms = models.PositiveIntegerField(default=30_000)
    # Load, disk, the digest of its DNA and more, as reported by heartbeats.
    vitals = models.JSONField(default=dict, blank=True, encoder=CompactEncoder)

    objects = VMQuerySet.as_manager()

    class Meta:
        verbose_name = "VM"
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=Q(role__in=Role.values), name="vm_role_is_known"),
            models.CheckConstraint(
                condition=Q(status__in=Status.values), name="vm_status_is_known"
            ),
            models.CheckConstraint(
                condition=Q(parent_vm_id__isnull=True) | ~Q(parent_vm_id=models.F("id")),
                name="vm_is_not_its_own_parent",
            ),
            models.CheckConstraint(
                condition=Q(status=Status.RUNNING, silent_after__isnull=False)
                | (~Q(status=Status.RUNNING) & Q(silent_after__isnull=True)),
                name="vm_has_deadlines_while_running",
            ),
        ]
        indexes = [
            models.Index(fields=["parent_vm_id", "registered_at"], name="vm_children"),
            models.Index(fields=["role", "id"], name="vm_by_role"),
            models.Index(fields=["registered_at"], name="vm_by_registration"),
            # One index for both deadlines: silent VMs are late as well. Every heartbeat rewrites
            # it, and each further index on these columns would make heartbeats a third more
            # expensive.
            models.Index(fields=["late_after", "silent_after"], name="vm_deadlines"),
        ]

    def __str__(self) -> str:
        """Return name or id, with marks for invisible characters."""
        return vm_names.marked(self.name or self.pk)

    @property
    def clock_warning(self) -> str:
        """Return how wrong the VM's clock is; empty if by at most a minute."""
        skew = self.vitals.get("clockSkewSeconds")
        if not isinstance(skew, int | float) or abs(skew) <= CLOCK_TOLERANCE_SECONDS:
            return ""
        direction = "behind" if skew < 0 else "ahead of"
        return f"its clock is {format_duration(abs(skew))} {direction} reef's"

    @property
    def told(self) -> dict[str, Any]:
        """Return the reported vitals that pages show."""
        return {name: self.vitals[name] for name in ("load", "disk") if name in self.vitals}

    def seen(self, at: datetime, *, status: str = Status.RUNNING) -> None:
        """Set last heartbeat, status and the resulting deadlines, without saving."""
        self.last_seen, self.status = max(at, self.last_seen), status
        self.late_after = self.silent_after = None
        if status == Status.RUNNING:
            self.late_after, self.silent_after = liveness.deadlines(
                self.last_seen, self.interval_ms
            )

    def liveness(self, at: datetime, *, grace: bool) -> Liveness:
        return liveness.liveness_at(self.late_after, self.silent_after, at, grace=grace)


def format_duration(seconds: float) -> str:
    """Format a duration in its largest fitting unit, such as `75 h` or `12 min`."""
    for size, unit, least in ((86_400, "days", 4), (3600, "h", 2), (60, "min", 2)):
        if seconds >= least * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


LINKS = Links(table="registry_vm", key="id", parent="parent_vm_id")


class Gap(models.Model):
    """A period without a heartbeat of a VM, recorded when it was heard from again.

    Outside of the recorded gaps the VM sent heartbeats.
    """

    vm_id = models.CharField("VM id", max_length=255)
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField()
    status = models.CharField(max_length=20, choices=Status.choices, help_text="During the gap.")

    class Meta:
        ordering = ["vm_id", "ended_at"]
        indexes = [
            models.Index(fields=["vm_id", "ended_at"], name="gap_of_vm"),
            models.Index(fields=["ended_at"], name="gap_by_end"),
        ]

    def __str__(self) -> str:
        return f"{self.vm_id} from {self.began_at} to {self.ended_at}"


class Watch(models.Model):
    """One row: since when reef itself has been up, and how far it has checked deadlines."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    up_since = models.DateTimeField(default=clock.now)
    ticked_at = models.DateTimeField(default=clock.now)
    # When an edge, which receives heartbeats, was last seen; null before the first one.
    door_at = models.DateTimeField(null=True, blank=True)
    # Events were published for deadlines up to these times.
    late_told_to = models.DateTimeField(default=clock.now)
    silent_told_to = models.DateTimeField(default=clock.now)

    class Meta:
        verbose_name_plural = "watch"
        constraints = [models.CheckConstraint(condition=Q(id=1), name="there_is_one_watch")]

    def __str__(self) -> str:
        return f"up since {self.up_since}"

    def was_away(self, at: datetime) -> bool:
        """Return whether reef could not receive heartbeats just before this moment."""
        door_shut = self.door_at is not None and at - self.door_at > liveness.DOWN_AFTER
        return door_shut or at - self.ticked_at > liveness.DOWN_AFTER

    def was_set_back(self, at: datetime) -> bool:
        """Return whether the clock was set back: a recorded time lies in the future."""
        marks = (self.up_since, self.ticked_at, self.door_at)
        return any(mark is not None and mark - at > liveness.CLOCK_TOLERANCE for mark in marks)

    def set_back(self, at: datetime) -> None:
        """Move all recorded times out of the future, and start the grace period again."""
        self.up_since = at
        self.ticked_at = min(self.ticked_at, at)
        self.door_at = min(self.door_at, at) if self.door_at else None
        self.late_told_to = min(self.late_told_to, at)
        self.silent_told_to = min(self.silent_told_to, at)

    def forgives(self, at: datetime) -> bool:
        """Return whether a missing heartbeat may be reef's own fault."""
        signs = [sign for sign in (self.ticked_at, self.door_at) if sign]
        return at - self.up_since < liveness.GRACE_PERIOD or at - max(signs) > liveness.DOWN_AFTER

    @classmethod
    def grace(cls, at: datetime) -> bool:
        """Return whether no VM may be called silent at this moment."""
        watch = cls.objects.first()
        return watch is not None and watch.forgives(at)
