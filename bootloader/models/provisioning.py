"""Provisionings, their steps and their log. Ids are ULIDs, which sort by time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Self

from django.db import models, transaction
from django.db.models import F, Q

from bootloader.models.machines import Machine
from bootloader.states import (
    ACTIVE_STATES,
    MOVES,
    OPEN_STATES,
    STEP_MOVES,
    CleanupPolicy,
    State,
    StepName,
    StepState,
)
from reef_site.common import clock
from reef_site.common.errors import IllegalMove, LostRace
from reef_site.common.eventlog import recording
from reef_site.common.ids import new_ulid
from reef_site.common.leases import LeaseQuerySet
from reef_site.common.text import clip_words


class ProvisioningQuerySet(LeaseQuerySet["Provisioning"]):
    def without_texts(self) -> Self:
        """Defer the large text columns."""
        return self.select_related("machine").defer("script", "user_data")

    def open(self) -> Self:
        """Return provisionings that have not ended."""
        return self.filter(state__in=OPEN_STATES)

    def active(self) -> Self:
        """Return provisionings that occupy one of the concurrent slots."""
        return self.filter(state__in=ACTIVE_STATES)

    def reserving_names(self) -> Self:
        """Return provisionings whose names are still reserved."""
        return self.filter(released_at__isnull=True)

    def claim(self, pk: str, holder: str, lease: timedelta) -> Provisioning | None:
        """Lease an active row to `holder` and return it; None while another holder has it."""
        mine = self.active().acquire(pk, lease, leased_by=holder)
        return self.without_texts().get(pk=pk) if mine else None

    def count_by_state(self) -> dict[str, int]:
        """Count rows by state; states without rows are missing."""
        return dict(self.order_by().values_list("state").annotate(count=models.Count("pk")))


class Provisioning(models.Model):
    """A run of steps that turns a request into a member of the fleet."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    name = models.CharField(max_length=64)
    profile = models.CharField(max_length=64)
    provider = models.CharField(max_length=40)
    parent_vm_id = models.CharField("parent VM id", max_length=255, blank=True)
    # The rest of the request, by the API's names; no secrets.
    wish = models.JSONField(default=dict, blank=True)
    # The resolved specification, by the names of `providers.base.Spec`; no secrets.
    spec = models.JSONField(default=dict, blank=True)
    on_failure = models.CharField(
        max_length=10, choices=CleanupPolicy.choices, default=CleanupPolicy.KEEP
    )
    actor = models.CharField(max_length=200)
    # If set, the VM is never placed on reef's own machine.
    asked_by_node = models.BooleanField(default=False)
    key = models.CharField("idempotency key", max_length=200, blank=True)
    # All provisionings of one request share a batch; position is the index in it.
    batch = models.CharField(max_length=26, blank=True)
    position = models.PositiveSmallIntegerField(default=0)
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    state_since = models.DateTimeField(default=clock.now)
    reason = models.TextField(blank=True, help_text="Why it failed or was cancelled.")
    machine = models.ForeignKey(
        Machine, models.PROTECT, null=True, blank=True, related_name="provisionings"
    )
    vm_id = models.CharField("VM id", max_length=255, blank=True)
    # Script and cloud-init as used, with secrets masked.
    script = models.TextField(blank=True)
    user_data = models.TextField("cloud-init", blank=True)
    created_at = models.DateTimeField(default=clock.now)
    ended_at = models.DateTimeField(null=True, blank=True)
    # The name may be used by another VM from then on.
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
        """Return whether it has not ended."""
        return self.state in OPEN_STATES

    def record(self, actor: object, reason: str = "") -> None:
        """Record in the event log that the provisioning has come to its state.

        Until its VM has an id, the event is about the VM that is to be its parent.
        """
        detail = {"name": self.name, "profile": self.profile, "reason": reason}
        vm_id = self.vm_id or self.parent_vm_id
        recording.record(f"boot.{self.state}", self.pk, actor=actor, detail=detail, vm_id=vm_id)

    @transaction.atomic
    def move(self, to: State, reason: str = "", *, actor: object = "reef", **also: Any) -> None:
        """Perform a transition of the state machine and log it. Raise IllegalMove, LostRace."""
        old = State(self.state)
        if to not in MOVES[old]:
            raise IllegalMove(f"'{self}' is {old}")
        now = clock.now()
        ended = None if to in OPEN_STATES else now
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
        line = f"{old} → {to}" + (f": {reason}" if reason else "")
        LogLine.objects.create(
            provisioning=self, kind=LogLine.Kind.STATE, text=clip_words(line, 2000)
        )
        self.record(actor, reason)


class BootStepQuerySet(models.QuerySet["BootStep"]):
    def next(self) -> BootStep | None:
        """Return the first step that is not done."""
        return self.exclude(state=StepState.DONE).order_by("position").first()

    def cancel(self) -> None:
        """Cancel waiting and running steps; running ones end now."""
        unended = [state for state, to in STEP_MOVES.items() if StepState.CANCELLED in to]
        self.filter(state=StepState.RUNNING).update(ended_at=clock.now())
        self.filter(state__in=unended).update(state=StepState.CANCELLED, reason="")


class BootStep(models.Model):
    """One step of a provisioning."""

    provisioning = models.ForeignKey(Provisioning, models.CASCADE, related_name="steps")
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=10, choices=StepName.choices)
    state = models.CharField(max_length=10, choices=StepState.choices, default=StepState.WAITING)
    # The cause of a failure, or what the step waits for.
    reason = models.TextField(blank=True)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="Retries count, too.")
    # Consecutive failures to reach the provider or the VM.
    misses = models.PositiveSmallIntegerField(default=0)
    # State needed to continue: offsets, times, ids.
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
        """Return the duration so far; None before the step starts."""
        if self.started_at is None:
            return None
        return ((self.ended_at or clock.now()) - self.started_at).total_seconds()

    def move(self, to: StepState, reason: str = "") -> None:
        """Perform a transition of the state machine. Raise IllegalMove, LostRace."""
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
        """Store values that the step needs to continue."""
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
