"""Jobs on subtrees and their steps. VM ids are text, because a job outlives the VMs it destroys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self

from django.db import models, transaction
from django.db.models import Count, Exists, F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from reef_site.common import clock
from reef_site.common.eventlog import recording
from reef_site.common.ids import new_ulid
from reef_site.common.leases import LeaseQuerySet


class Operation(models.TextChoices):
    """Operations on a VM and its descendants."""

    PAUSE = "pause", "pause"
    RESUME = "resume", "resume"
    DESTROY = "destroy", "destroy"

    @property
    def leaves_first(self) -> bool:
        """Return whether descendants come before their ancestors."""
        return self is not Operation.RESUME

    @property
    def needs_relatives(self) -> bool:
        """Return whether a step is blocked when the step it depends on has failed."""
        return self is not Operation.PAUSE


class JobState(models.TextChoices):
    """State of a job."""

    OPEN = "open", "open"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"


class StepState(models.TextChoices):
    """State of a step."""

    WAITING = "waiting", "waiting"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    # A step that it depends on has failed; running the job again tries both.
    BLOCKED = "blocked", "blocked"
    LEFT_OUT = "left-out", "left out"
    # The job was cancelled before this step started; running the job again tries it.
    CANCELLED = "cancelled", "cancelled"


OPEN_STEPS = (StepState.WAITING, StepState.RUNNING)
MISSED_STEPS = (StepState.FAILED, StepState.BLOCKED, StepState.CANCELLED)


def _count_name(state: StepState) -> str:
    return f"steps_{state.name.lower()}"


class JobQuerySet(LeaseQuerySet["Job"]):
    def open(self) -> Self:
        """Filter jobs that have not ended."""
        return self.filter(state=JobState.OPEN)

    def with_counts(self) -> Self:
        """Annotate the step counts that `Job.counts` returns, in the same query."""
        steps = Step.objects.filter(job=OuterRef("pk")).order_by().values("job")
        counts = {
            _count_name(state): Coalesce(
                Subquery(steps.filter(state=state).annotate(n=Count("pk")).values("n")), 0
            )
            for state in StepState
        }
        return self.annotate(**counts)

    def claim(self, pk: str, lease: timedelta) -> Job | None:
        """Lease an open job to the caller and return it; None if another worker holds the lease."""
        return self.get(pk=pk) if self.open().acquire(pk, lease) else None


class Job(models.Model):
    """An operation on a VM and its descendants."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    verb = models.CharField(max_length=10, choices=Operation.choices)
    vm_id = models.CharField("VM id", max_length=255, help_text="The VM at the top.")
    name = models.CharField(max_length=255, blank=True)
    actor = models.CharField(max_length=200)
    cause = models.CharField(max_length=200, blank=True, help_text="The rule's firing, if one.")
    state = models.CharField(max_length=10, choices=JobState.choices, default=JobState.OPEN)
    reason = models.TextField(blank=True, help_text="Why it could not go on, or did nothing.")
    snapshot = models.CharField(max_length=200, blank=True, help_text="Taken before it began.")
    created_at = models.DateTimeField(default=clock.now)
    ended_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True, editable=False)
    # When the next `advance` task is scheduled; whoever schedules it sets this.
    look_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = JobQuerySet.as_manager()

    class Meta:
        db_table = "lieutenants_job"
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["vm_id"], condition=Q(state="open"), name="one_open_job_a_vm"
            ),
            models.CheckConstraint(
                condition=Q(verb__in=Operation.values), name="job_verb_is_known"
            ),
            models.CheckConstraint(
                condition=Q(state__in=JobState.values), name="job_state_is_known"
            ),
        ]
        indexes = [
            models.Index(fields=["state", "id"], name="job_by_state"),
            models.Index(fields=["vm_id", "id"], name="job_of_vm"),
        ]

    def __str__(self) -> str:
        return f"{self.verb} {self.name or self.vm_id}"

    @property
    def is_open(self) -> bool:
        """Return whether the job has not ended."""
        return self.state == JobState.OPEN

    def end(self, state: JobState, *, reason: str = "", actor: str = "") -> bool:
        """End the job; return False if it has ended already. Without an actor it ended itself."""
        fields = {"state": state, "reason": reason[:2000], "ended_at": clock.now()}
        with transaction.atomic():
            ended = bool(Job.objects.open().filter(pk=self.pk).update(**fields))
            if ended:
                self.record(state, actor=actor or f"job {self.pk}", reason=reason)
        return ended

    def record(self, state: JobState, *, actor: str, reason: str = "") -> None:
        """Record in the event log that the job has come to this state."""
        detail = {"operation": self.verb, "job": self.pk, "name": self.name, "reason": reason}
        recording.record(f"operation.{state.value}", self.vm_id, actor=actor, detail=detail)

    def counts(self) -> dict[str, int]:
        """Return the number of steps by state, without empty states."""
        known = {state.value: vars(self).get(_count_name(state)) for state in StepState}
        if None not in known.values():
            return {state: count for state, count in known.items() if count}
        rows = self.steps.order_by().values_list("state").annotate(count=Count("pk"))
        return dict(rows)


class StepQuerySet(LeaseQuerySet["Step"]):
    def unfinished(self) -> Self:
        """Filter steps that are waiting or running."""
        return self.filter(state__in=OPEN_STEPS)

    def ready(self, verb: Operation) -> Self:
        """Filter waiting steps that depend on no unfinished step."""
        waiting = self.filter(state=StepState.WAITING)
        if not verb.leaves_first:
            above = Step.objects.filter(job=OuterRef("job"), vm_id=OuterRef("above"))
            return waiting.filter(~Exists(above.filter(state__in=OPEN_STEPS)))
        below = Step.objects.filter(job=OuterRef("job"), above=OuterRef("vm_id"))
        return waiting.filter(~Exists(below.filter(state__in=OPEN_STEPS)))

    def claim(self, pk: int, lease: timedelta) -> Step | None:
        """Move a waiting step of an open job to running and return it; None if not waiting."""
        is_open = Exists(Job.objects.open().filter(pk=OuterRef("job")))
        waiting = self.filter(is_open, state=StepState.WAITING)
        claimed = waiting.acquire(
            pk,
            lease,
            state=StepState.RUNNING,
            attempts=F("attempts") + 1,
            started_at=clock.now(),
            acted_at=None,
            reason="",
        )
        return self.select_related("job").get(pk=pk) if claimed else None


class Step(models.Model):
    """Part of a job that concerns one VM."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="steps")
    position = models.PositiveIntegerField()
    vm_id = models.CharField("VM id", max_length=255)
    name = models.CharField(max_length=255, blank=True)
    category = models.CharField(max_length=20, blank=True)
    # Parent VM, if it has a step in this job too.
    above = models.CharField(max_length=255, blank=True)
    handler = models.CharField(max_length=40, help_text="Who knows how to do it.")
    does = models.CharField(max_length=300)
    state = models.CharField(max_length=10, choices=StepState.choices, default=StepState.WAITING)
    reason = models.TextField(blank=True, help_text="Why it failed or is left out.")
    attempts = models.PositiveSmallIntegerField(default=0)
    started_at = models.DateTimeField(null=True, blank=True)
    # When the VM was asked; the operation itself may take longer.
    acted_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True, editable=False)

    objects = StepQuerySet.as_manager()

    class Meta:
        db_table = "lieutenants_step"
        ordering = ["job", "position"]
        constraints = [
            models.UniqueConstraint(fields=["job", "vm_id"], name="one_step_a_vm"),
            models.CheckConstraint(
                condition=Q(state__in=StepState.values), name="step_state_is_known"
            ),
        ]
        indexes = [
            models.Index(fields=["job", "state", "position"], name="step_by_state"),
            models.Index(fields=["job", "above", "state"], name="step_below"),
        ]

    def __str__(self) -> str:
        return f"{self.does} ({self.state})"

    def end(self, state: StepState, reason: str = "", *, at: datetime | None = None) -> bool:
        """Move a running step to `state`; return False if it is not running any more."""
        mine = Step.objects.filter(pk=self.pk, state=StepState.RUNNING, attempts=self.attempts)
        self.state, self.reason = state, reason[:2000]
        self.ended_at = None if state == StepState.WAITING else at or clock.now()
        fields = {"state": state, "reason": self.reason, "ended_at": self.ended_at}
        return bool(mine.update(**fields, leased_until=None))
