"""Provisionings, their steps and what they said. Ids are text: they sort by time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Self

from django.db import models
from django.db.models import F, Q

from bootloader.models.machines import Machine
from bootloader.states import (
    AT_WORK,
    MOVES,
    OPEN,
    STEP_MOVES,
    Leftover,
    State,
    StepName,
    StepState,
)
from reef_site.common import clock
from reef_site.common.errors import IllegalMove, LostRace
from reef_site.common.ids import new_ulid
from reef_site.common.leases import LeaseQuerySet
from reef_site.common.text import clip_words


class ProvisioningQuerySet(LeaseQuerySet["Provisioning"]):
    def light(self) -> Self:
        """Without the long texts, which are read when they are asked for."""
        return self.select_related("machine").defer("script", "user_data")

    def open(self) -> Self:
        """Those that something is still to come of."""
        return self.filter(state__in=OPEN)

    def at_work(self) -> Self:
        """Those that take one of the places there are for them."""
        return self.filter(state__in=AT_WORK)

    def holding(self) -> Self:
        """Those whose name nobody else may have."""
        return self.filter(released_at__isnull=True)

    def claim(self, pk: str, holder: str, lease: timedelta) -> Provisioning | None:
        """Lease the row to this holder if it is at work; None while somebody else has it."""
        mine = self.at_work().acquire(pk, lease, leased_by=holder)
        return self.light().get(pk=pk) if mine else None

    def count_by_state(self) -> dict[str, int]:
        """How many there are of each state that any has."""
        return dict(self.order_by().values_list("state").annotate(count=models.Count("pk")))


class Provisioning(models.Model):
    """One VM's way from nothing to a member of the fleet."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    name = models.CharField(max_length=64)
    profile = models.CharField(max_length=64)
    provider = models.CharField(max_length=40)
    parent_vm_id = models.CharField("parent VM id", max_length=255, blank=True)
    # What was asked for beside the above, by the names of the API; no secrets.
    wish = models.JSONField(default=dict, blank=True)
    # What config and wish came to, by the names of `providers.base.Spec`; no secrets.
    spec = models.JSONField(default=dict, blank=True)
    on_failure = models.CharField(max_length=10, choices=Leftover.choices, default=Leftover.KEEP)
    actor = models.CharField(max_length=200)
    # The VM never runs on the machine of reef itself then.
    asked_by_node = models.BooleanField(default=False)
    key = models.CharField("idempotency key", max_length=200, blank=True)
    # Which one of those that one request asked for, and what all of them are known by.
    batch = models.CharField(max_length=26, blank=True)
    position = models.PositiveSmallIntegerField(default=0)
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    state_since = models.DateTimeField(default=clock.now)
    reason = models.TextField(blank=True, help_text="Why it failed or was cancelled.")
    machine = models.ForeignKey(
        Machine, models.PROTECT, null=True, blank=True, related_name="provisionings"
    )
    vm_id = models.CharField("VM id", max_length=255, blank=True)
    # The script and the cloud-init as they were used, secrets masked.
    script = models.TextField(blank=True)
    user_data = models.TextField("cloud-init", blank=True)
    created_at = models.DateTimeField(default=clock.now)
    ended_at = models.DateTimeField(null=True, blank=True)
    # From when on another VM may have its name.
    released_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True, editable=False)
    leased_by = models.CharField(max_length=40, blank=True, editable=False)
    look_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ProvisioningQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["name"], condition=Q(released_at__isnull=True), name="one_vm_a_name"
            ),
            models.UniqueConstraint(
                fields=["actor", "key", "position"],
                condition=~Q(key=""),
                name="one_vm_an_idempotency_key",
            ),
            models.UniqueConstraint(fields=["machine"], name="one_provisioning_a_machine"),
            models.CheckConstraint(
                condition=Q(state__in=State.values), name="provisioning_state_is_known"
            ),
        ]
        indexes = [
            models.Index(fields=["state", "id"], name="provisioning_by_state"),
            models.Index(fields=["batch", "position"], name="provisioning_of_batch"),
            models.Index(fields=["vm_id"], name="provisioning_of_vm"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_open(self) -> bool:
        """Whether something is still to come."""
        return self.state in OPEN

    def move(self, to: State, reason: str = "", **also: Any) -> None:
        """Follow one arrow of the state machine and write it down, or raise.

        Raises IllegalMove, LostRace.
        """
        old = State(self.state)
        if to not in MOVES[old]:
            raise IllegalMove(f"'{self}' is {old}")
        now = clock.now()
        ended = None if to in OPEN else now
        fields = {
            "state": to,
            "state_since": now,
            "reason": clip_words(reason, 2000),
            "ended_at": ended,
        }
        fields |= also
        # The WHERE clause is the lock: only one of two movers finds the row.
        if not Provisioning.objects.filter(pk=self.pk, state=old).update(**fields):
            raise LostRace(f"'{self}' is no longer {old}")
        for name, value in fields.items():
            setattr(self, name, value)
        said = f"{old} → {to}" + (f": {reason}" if reason else "")
        LogLine.objects.create(
            provisioning=self, kind=LogLine.Kind.STATE, text=clip_words(said, 2000)
        )


class BootStepQuerySet(models.QuerySet["BootStep"]):
    def next(self) -> BootStep | None:
        """The first one that is not at its end."""
        return self.exclude(state=StepState.DONE).order_by("position").first()

    def cancel(self) -> None:
        """Nothing more comes of those that run or wait; what has run, has run until now."""
        unended = [state for state, to in STEP_MOVES.items() if StepState.CANCELLED in to]
        self.filter(state=StepState.RUNNING).update(ended_at=clock.now())
        self.filter(state__in=unended).update(state=StepState.CANCELLED, reason="")


class BootStep(models.Model):
    """One step of a provisioning."""

    provisioning = models.ForeignKey(Provisioning, models.CASCADE, related_name="steps")
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=10, choices=StepName.choices)
    state = models.CharField(max_length=10, choices=StepState.choices, default=StepState.WAITING)
    # Why it failed, or what it waits for.
    reason = models.TextField(blank=True)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="Retries count, too.")
    # How often in a row the provider or the VM could not be reached.
    misses = models.PositiveSmallIntegerField(default=0)
    # What must be known to go on with it: offsets, times, ids.
    facts = models.JSONField(default=dict, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = BootStepQuerySet.as_manager()

    class Meta:
        ordering = ["provisioning", "position"]
        constraints = [
            models.UniqueConstraint(fields=["provisioning", "name"], name="one_step_a_name"),
            models.CheckConstraint(
                condition=Q(state__in=StepState.values), name="boot_step_state_is_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def seconds(self) -> float | None:
        """How long it took, or has taken until now; None before its beginning."""
        if self.started_at is None:
            return None
        return ((self.ended_at or clock.now()) - self.started_at).total_seconds()

    def move(self, to: StepState, reason: str = "") -> None:
        """Follow one arrow of the state machine, or raise IllegalMove, LostRace."""
        old, now = StepState(self.state), clock.now()
        if to not in STEP_MOVES[old]:
            raise IllegalMove(f"step {self} is {old}")
        fields: dict[str, Any] = {"state": to, "reason": clip_words(reason, 2000)}
        match to:
            case StepState.RUNNING:
                fields |= {"started_at": now, "ended_at": None, "misses": 0}
                fields |= {"attempts": F("attempts") + 1}
            case StepState.WAITING:
                fields |= {"started_at": None, "ended_at": None}
            case _:
                fields |= {"ended_at": now}
        if not BootStep.objects.filter(pk=self.pk, state=old).update(**fields):
            raise LostRace(f"step {self} is no longer {old}")
        self.refresh_from_db()

    def keep(self, **facts: Any) -> None:
        """Write down what must be known to go on."""
        self.facts = {**self.facts, **facts}
        BootStep.objects.filter(pk=self.pk).update(facts=self.facts)


class LogLine(models.Model):
    """One line of a provisioning's log, without secrets."""

    class Kind(models.TextChoices):
        STATE = "state", "state"
        NOTE = "note", "note"
        OUTPUT = "output", "output of the VM"
        ERROR = "error", "error"

    provisioning = models.ForeignKey(Provisioning, models.CASCADE, related_name="log")
    at = models.DateTimeField(default=clock.now)
    step = models.CharField(max_length=10, blank=True)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    text = models.TextField()

    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["provisioning", "id"], name="log_of_provisioning")]

    def __str__(self) -> str:
        return self.text[:80]
