"""Jobs over subtrees and their steps. Ids are text: a job outlives what it destroyed."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self

from django.db import models
from django.db.models import Count, Exists, F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce

from reef_site.common import clock
from reef_site.common.ids import new_ulid
from reef_site.common.leases import LeaseQuerySet


class Verb(models.TextChoices):
    """What can be done to a VM and everything below it."""

    PAUSE = "pause", "pause"
    RESUME = "resume", "resume"
    DESTROY = "destroy", "destroy"

    @property
    def leaves_first(self) -> bool:
        """Whether what is below comes before what is above."""
        return self is not Verb.RESUME

    @property
    def needs_relatives(self) -> bool:
        """Whether a step is pointless when the one it waits for failed."""
        return self is not Verb.PAUSE


class JobState(models.TextChoices):
    """How far a job has come."""

    OPEN = "open", "open"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"


class StepState(models.TextChoices):
    """How far a step has come."""

    WAITING = "waiting", "waiting"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    # A step that it waits for failed; running the job again tries both.
    BLOCKED = "blocked", "blocked"
    LEFT_OUT = "left-out", "left out"
    # Its job was cancelled before it began; running the job again tries it.
    CANCELLED = "cancelled", "cancelled"


OPEN_STEPS = (StepState.WAITING, StepState.RUNNING)
MISSED_STEPS = (StepState.FAILED, StepState.BLOCKED, StepState.CANCELLED)


def _count_name(state: StepState) -> str:
    return f"steps_{state.name.lower()}"


class JobQuerySet(LeaseQuerySet["Job"]):
    def open(self) -> Self:
        """Those that are not at their end."""
        return self.filter(state=JobState.OPEN)

    def with_counts(self) -> Self:
        """Each with the numbers that `counts` gives, in the same statement."""
        steps = Step.objects.filter(job=OuterRef("pk")).order_by().values("job")
        counts = {
            _count_name(state): Coalesce(
                Subquery(steps.filter(state=state).annotate(n=Count("pk")).values("n")), 0
            )
            for state in StepState
        }
        return self.annotate(**counts)

    def claim(self, pk: str, lease: timedelta) -> Job | None:
        """Lease the job if it is open; None while somebody else holds it."""
        return self.get(pk=pk) if self.open().acquire(pk, lease) else None


class Job(models.Model):
    """One verb over a VM and everything below it."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    verb = models.CharField(max_length=10, choices=Verb.choices)
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
    # When somebody is going to look at it again; who moves it on rings for that.
    look_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = JobQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["vm_id"], condition=Q(state="open"), name="one_open_job_a_vm"
            ),
            models.CheckConstraint(condition=Q(verb__in=Verb.values), name="job_verb_is_known"),
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
        """Whether it is at work."""
        return self.state == JobState.OPEN

    def counts(self) -> dict[str, int]:
        """How many steps there are of each state that any has."""
        known = {state.value: vars(self).get(_count_name(state)) for state in StepState}
        if None not in known.values():
            return {state: count for state, count in known.items() if count}
        rows = self.steps.order_by().values_list("state").annotate(count=Count("pk"))
        return dict(rows)


class StepQuerySet(LeaseQuerySet["Step"]):
    def unfinished(self) -> Self:
        """Those that something is still to come of."""
        return self.filter(state__in=OPEN_STEPS)

    def ready(self, verb: Verb) -> Self:
        """Those that wait for no other one."""
        waiting = self.filter(state=StepState.WAITING)
        if not verb.leaves_first:
            above = Step.objects.filter(job=OuterRef("job"), vm_id=OuterRef("above"))
            return waiting.filter(~Exists(above.filter(state__in=OPEN_STEPS)))
        below = Step.objects.filter(job=OuterRef("job"), above=OuterRef("vm_id"))
        return waiting.filter(~Exists(below.filter(state__in=OPEN_STEPS)))

    def claim(self, pk: int, lease: timedelta) -> Step | None:
        """Lease the step and set it running; None unless it waits and its job is open."""
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
    """What a job does to one VM."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="steps")
    position = models.PositiveIntegerField()
    vm_id = models.CharField("VM id", max_length=255)
    name = models.CharField(max_length=255, blank=True)
    category = models.CharField(max_length=20, blank=True)
    # The VM above it, if the job has a step for that one, too.
    above = models.CharField(max_length=255, blank=True)
    handler = models.CharField(max_length=40, help_text="Who knows how to do it.")
    does = models.CharField(max_length=300)
    state = models.CharField(max_length=10, choices=StepState.choices, default=StepState.WAITING)
    reason = models.TextField(blank=True, help_text="Why it failed or is left out.")
    attempts = models.PositiveSmallIntegerField(default=0)
    started_at = models.DateTimeField(null=True, blank=True)
    # Asked of the VM; what was asked may still take its time.
    acted_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True, editable=False)

    objects = StepQuerySet.as_manager()

    class Meta:
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
        """Bring a running step to this end; False if it is not running any more."""
        mine = Step.objects.filter(pk=self.pk, state=StepState.RUNNING, attempts=self.attempts)
        self.state, self.reason = state, reason[:2000]
        self.ended_at = None if state == StepState.WAITING else at or clock.now()
        fields = {"state": state, "reason": self.reason, "ended_at": self.ended_at}
        return bool(mine.update(**fields, leased_until=None))
