"""Saved filters of people, and actions on many rows with a result for each."""

from __future__ import annotations

from typing import Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from reef_site.common import clock
from reef_site.common.ids import new_ulid
from reef_site.common.leases import LeaseQuerySet

MAX_NAME = 60
# In percent-encoding: some hundred characters of any script.
MAX_QUERY = 10_000


class SavedFilter(models.Model):
    """A query of a list's URL that one person has given a name."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="saved_filters")
    list = models.CharField(max_length=40)
    name = models.CharField(max_length=MAX_NAME)
    query = models.CharField(max_length=MAX_QUERY, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "list", "name"], name="one_saved_filter_a_name"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.list}"


class HiddenPreset(models.Model):
    """A filter that everybody has, and that one person does not want to see."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="hidden_presets"
    )
    list = models.CharField(max_length=40)
    name = models.CharField(max_length=MAX_NAME)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "list", "name"], name="one_hidden_preset_a_name"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.list}"


class RunState(models.TextChoices):
    """State of an action on many rows."""

    # A plan that nobody has confirmed yet.
    PLANNED = "planned", "planned"
    OPEN = "open", "open"
    DONE = "done", "done"
    CANCELLED = "cancelled", "cancelled"


class ItemState(models.TextChoices):
    """State of one row of an action."""

    WAITING = "waiting", "waiting"
    RUNNING = "running", "running"
    DONE = "done", "done"
    FAILED = "failed", "failed"
    REFUSED = "refused", "refused"
    CANCELLED = "cancelled", "cancelled"


OPEN_ITEMS = (ItemState.WAITING, ItemState.RUNNING)


class BulkRunQuerySet(LeaseQuerySet["BulkRun"]):
    def open(self) -> Self:
        """Filter actions that are confirmed and have not ended."""
        return self.filter(state=RunState.OPEN)


class BulkRun(models.Model):
    """An action on rows of a list: a plan, and once it is confirmed, its execution."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    list = models.CharField(max_length=40)
    action = models.CharField(max_length=40)
    # The filter that the rows were chosen with.
    query = models.CharField(max_length=MAX_QUERY, blank=True)
    text = models.TextField(blank=True, help_text="What is sent to each row.")
    # Who has planned it, and may confirm it. The worker checks this person's permissions again.
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="bulk_runs"
    )
    actor = models.CharField(max_length=200)
    state = models.CharField(max_length=10, choices=RunState.choices, default=RunState.PLANNED)
    reason = models.TextField(blank=True, help_text="Why it could not go on.")
    snapshot = models.CharField(max_length=200, blank=True, help_text="Taken before it began.")
    created_at = models.DateTimeField(default=clock.now)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True, editable=False)

    objects = BulkRunQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=RunState.values), name="bulk_run_state_is_known"
            ),
        ]
        indexes = [models.Index(fields=["state", "id"], name="bulk_run_by_state")]

    def __str__(self) -> str:
        return f"{self.action} of {self.list}"

    @property
    def is_open(self) -> bool:
        """Return whether it is confirmed and has not ended."""
        return self.state == RunState.OPEN

    def end(self, state: RunState, *, reason: str = "") -> bool:
        """End an open action; return False if it is not open. What was sent is not kept."""
        fields = {"state": state, "reason": reason[:2000], "ended_at": clock.now(), "text": ""}
        return bool(BulkRun.objects.open().filter(pk=self.pk).update(**fields))


class BulkItem(models.Model):
    """One row of an action, as it was planned, and its result."""

    run = models.ForeignKey(BulkRun, models.CASCADE, related_name="items")
    position = models.PositiveIntegerField()
    target = models.CharField(max_length=255)
    name = models.CharField(max_length=255, blank=True)
    does = models.CharField(max_length=300)
    warning = models.CharField(max_length=300, blank=True)
    # The number of VMs that change, if it is not just one.
    count = models.PositiveIntegerField(null=True, blank=True)
    state = models.CharField(max_length=10, choices=ItemState.choices, default=ItemState.WAITING)
    result = models.TextField(blank=True, help_text="What was done, or why not.")
    job = models.CharField(max_length=26, blank=True, help_text="The job that goes on with it.")
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["run", "position"]
        constraints = [
            models.UniqueConstraint(fields=["run", "position"], name="one_bulk_item_a_position"),
            models.UniqueConstraint(fields=["run", "target"], name="one_bulk_item_a_target"),
            models.CheckConstraint(
                condition=Q(state__in=ItemState.values), name="bulk_item_state_is_known"
            ),
        ]
        indexes = [models.Index(fields=["run", "state", "position"], name="bulk_item_by_state")]

    def __str__(self) -> str:
        return f"{self.does}: {self.name or self.target}"
