"""Who answers now: VMs with the deadlines of their next sign, and the watch over reef itself."""

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
from vmtree.lineage import Links
from vmtree.models import CompactEncoder, Node

# A VM's clock may be wrong by so much before anybody is told.
CLOCK_TOLERANCE_SECONDS = 60


class Role(models.TextChoices):
    """What a VM is in the fleet. The words are those of the HTTP API."""

    INFRA = "infra", "infra"
    LIEUTENANT = "lieutenant", "lieutenant"
    WORKER = "worker", "worker"
    GOLDEN = "golden", "golden"
    CUSTOM = "custom", "custom"


class Status(models.TextChoices):
    """What a VM was last said to be doing."""

    RUNNING = "running", "running"
    PAUSED = "paused", "paused"
    STOPPED = "stopped", "stopped"


class VMQuerySet(models.QuerySet["VM"]):
    def late(self, at: datetime) -> Self:
        """Those whose beat is overdue, the silent ones among them."""
        return self.filter(late_after__lte=at)

    def silent(self, at: datetime) -> Self:
        """Those that are believed dead; nobody while reef itself was away just now."""
        return self.none() if Watch.grace(at) else self.late(at).filter(silent_after__lte=at)

    def called(self, word: Liveness, at: datetime) -> Self:
        """Those that are live, late or silent; the silent are not late besides."""
        if word == Liveness.LIVE:
            return self.filter(Q(late_after__isnull=True) | Q(late_after__gt=at))
        if word == Liveness.SILENT:
            return self.silent(at)
        in_time = Q(silent_after__isnull=True) | Q(silent_after__gt=at)
        return self.late(at) if Watch.grace(at) else self.late(at).filter(in_time)

    def answering(self, at: datetime) -> Self:
        """Running ones that are not silent."""
        running = self.filter(status=Status.RUNNING)
        return running if Watch.grace(at) else running.filter(silent_after__gt=at)

    def without_place(self) -> Self:
        """Those that the tree does not have, or has as removed only."""
        return self.filter(~Exists(Node.objects.living().filter(vm_id=OuterRef("pk"))))

    def newest_first(self) -> Self:
        """By the last sign, as the API lists them."""
        return self.order_by("-last_seen", "id")


class VM(models.Model):
    """A VM that was registered, and when it was last heard of.

    Its deadlines are null unless it is running: of others no beat is expected.
    """

    id = models.CharField(primary_key=True, max_length=255)
    name = models.CharField(max_length=255, blank=True)
    role = models.CharField(max_length=20, choices=Role.choices)
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.RUNNING)
    address = models.CharField(max_length=1000, blank=True)
    # Text, not a key: a parent may be unknown here, or gone.
    parent_vm_id = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001
    services = models.JSONField(default=list, blank=True, encoder=CompactEncoder)
    reef_config = models.JSONField(default=dna.empty, blank=True, encoder=CompactEncoder)
    # Agents tell absent from null: absent until it is set for the first time.
    metadata = models.JSONField(null=True, blank=True, encoder=CompactEncoder)
    has_metadata = models.BooleanField(default=False)
    registered_by = models.CharField(max_length=255)
    registered_at = models.DateTimeField(default=clock.now)
    last_seen = models.DateTimeField(default=clock.now)
    late_after = models.DateTimeField(null=True, blank=True)
    silent_after = models.DateTimeField(null=True, blank=True)
    interval_ms = models.PositiveIntegerField(default=30_000)
    # Load, disk, and the digest of the DNA it has, as its beats told.
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
            # One for both deadlines: whoever is silent is late, too. Every beat writes it anew, and
            # each further index on what beats write would cost them a third more.
            models.Index(fields=["late_after", "silent_after"], name="vm_deadlines"),
        ]

    def __str__(self) -> str:
        """Return name or id, with marks for invisible characters."""
        return vm_names.marked(self.name or self.pk)

    @property
    def clock_warning(self) -> str:
        """How wrong its clock is, if by more than a minute; else empty."""
        skew = self.vitals.get("clockSkewSeconds")
        if not isinstance(skew, int | float) or abs(skew) <= CLOCK_TOLERANCE_SECONDS:
            return ""
        return f"its clock is {span(abs(skew))} {'behind' if skew < 0 else 'ahead of'} reef's"

    @property
    def told(self) -> dict[str, Any]:
        """What its heartbeats told that people want to see."""
        return {name: self.vitals[name] for name in ("load", "disk") if name in self.vitals}

    def seen(self, at: datetime, *, status: str = Status.RUNNING) -> None:
        """Set the last sign, the status and the deadlines that follow; saves nothing."""
        self.last_seen, self.status = max(at, self.last_seen), status
        self.late_after = self.silent_after = None
        if status == Status.RUNNING:
            self.late_after, self.silent_after = liveness.deadlines(
                self.last_seen, self.interval_ms
            )

    def liveness(self, at: datetime, *, grace: bool) -> Liveness:
        """Live, late or silent at this moment."""
        return liveness.word(self.late_after, self.silent_after, at, grace=grace)


def span(seconds: float) -> str:
    """A length of time in its largest fitting unit: `75 h`, `12 min`."""
    for size, unit, least in ((86_400, "days", 4), (3600, "h", 2), (60, "min", 2)):
        if seconds >= least * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


LINKS = Links(table="registry_vm", key="id", parent="parent_vm_id")


class Gap(models.Model):
    """A time without a sign of a VM, written down when it was heard of again.

    What lies between the gaps of the last day is when it beat.
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
    """One row: how long reef itself has been there to hear beats, and how far it has looked."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    up_since = models.DateTimeField(default=clock.now)
    ticked_at = models.DateTimeField(default=clock.now)
    # The last sign of an edge, where beats come in; null while none was ever seen.
    door_at = models.DateTimeField(null=True, blank=True)
    # Deadlines up to these moments were told to whoever watches.
    late_told_to = models.DateTimeField(default=clock.now)
    silent_told_to = models.DateTimeField(default=clock.now)

    class Meta:
        verbose_name_plural = "watch"
        constraints = [models.CheckConstraint(condition=Q(id=1), name="there_is_one_watch")]

    def __str__(self) -> str:
        return f"up since {self.up_since}"

    def was_away(self, at: datetime) -> bool:
        """Whether nothing could have heard beats just before this moment."""
        door_shut = self.door_at is not None and at - self.door_at > liveness.DOWN
        return door_shut or at - self.ticked_at > liveness.DOWN

    def was_set_back(self, at: datetime) -> bool:
        """Whether the clock was set back: something that was written down is still to come."""
        marks = (self.up_since, self.ticked_at, self.door_at)
        return any(mark is not None and mark - at > liveness.TOLERANCE for mark in marks)

    def set_back(self, at: datetime) -> None:
        """Bring all marks that lie in the future to this moment, and begin the grace anew."""
        self.up_since = at
        self.ticked_at = min(self.ticked_at, at)
        self.door_at = min(self.door_at, at) if self.door_at else None
        self.late_told_to = min(self.late_told_to, at)
        self.silent_told_to = min(self.silent_told_to, at)

    def forgives(self, at: datetime) -> bool:
        """Whether a missing beat may be reef's own fault."""
        signs = [sign for sign in (self.ticked_at, self.door_at) if sign]
        return at - self.up_since < liveness.GRACE or at - max(signs) > liveness.DOWN

    @classmethod
    def grace(cls, at: datetime) -> bool:
        """Whether nobody may be called silent at this moment."""
        watch = cls.objects.first()
        return watch is not None and watch.forgives(at)
