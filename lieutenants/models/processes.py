"""Runs of agent processes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from lieutenants.hosts.models import this_folder
from lieutenants.states import END_KEEPER_SECONDS
from reef_site.common.ids import new_ulid

# Each live process is checked every second, so that loading all fields would be a large part of
# the follower's work.
CHECKED = (
    *("lieutenant", "data_folder", "transport", "directory", "handle", "generation"),
    *("started_at", "ready_at", "stop_asked_at"),
)
CHECKED_OF_LIEUTENANT = (
    *("name", "status", "data_folder", "transport", "ssh_host", "on_vm", "abort_asked_at"),
    *("rewind_to", "stall_limit_seconds", "tool_limit_seconds", "limit_action"),
)


class ProcessQuerySet(models.QuerySet["Process"]):
    def live(self) -> Self:
        """Processes that have not ended, as far as is known."""
        return self.filter(ended_at__isnull=True)

    def lasting(self) -> Self:
        """Live processes, but for those that should have ended since they were asked to stop.

        Such a one may be on a VM that does not answer any more: that can be deleted.
        """
        limit = timezone.now() - timedelta(seconds=END_KEEPER_SECONDS)
        return self.live().exclude(stop_asked_at__lt=limit)

    def here(self) -> Self:
        """Processes whose run folders lie in this data folder."""
        return self.filter(data_folder=settings.DATA_FOLDER_ID)

    def for_checks(self) -> Self:
        """Load only what the follower's checks use of a process and its lieutenant."""
        lieutenant = (f"lieutenant__{name}" for name in CHECKED_OF_LIEUTENANT)
        return self.select_related("lieutenant").only(*CHECKED, *lieutenant)

    def start_steps(self, lieutenants: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Map lieutenants to the steps of their newest start on a VM."""
        if not lieutenants:
            return {}
        rows = self.filter(lieutenant__in=lieutenants).order_by("started_at", "id")
        return {row.lieutenant_id: row.start_steps() for row in rows.only(*Process.STEP_FIELDS)}

    def held_by(self, process: Process) -> Self:
        """The row of a process, unless another follower has taken it over since it was read."""
        same = {"data_folder": process.data_folder, "generation": process.generation}
        return self.filter(pk=process.pk, **same)

    def lock(self) -> None:
        """Lock these rows until the end of the transaction.

        Whoever changes a lieutenant and its processes in one transaction locks the processes first,
        as each pass of a follower does.
        """
        list(self.select_for_update().order_by("pk").values_list("pk"))

    def frozen_on(self, vm_id: str) -> Self:
        """Processes that wait in this paused VM, or in one that is being paused."""
        return self.filter(is_frozen=True, lieutenant__on_vm=vm_id)

    def pausing(self) -> Self:
        """Processes in VMs that are about to be paused."""
        return self.filter(is_frozen=True, vm_paused_at__isnull=True)

    def abandoned(self) -> Self:
        """Processes whose host must still end them: another host has ended their rows."""
        return self.filter(is_abandoned=True)


class Process(models.Model):
    """One run of an agent process: how to find it again, and how it ended."""

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    lieutenant = models.ForeignKey("Lieutenant", models.CASCADE, related_name="processes")
    data_folder = models.CharField(max_length=26, default=this_folder, db_index=True)
    host = models.CharField(max_length=255, db_index=True)
    transport = models.CharField(max_length=20)
    directory = models.CharField(max_length=1024)
    agent = models.CharField(max_length=1024, help_text="The agent's program and version.")
    handle = models.JSONField(default=dict, help_text="Pids with their start times.")
    started_at = models.DateTimeField(default=timezone.now)
    ready_at = models.DateTimeField(null=True, blank=True)
    stop_asked_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    exit_code = models.IntegerField(null=True, blank=True)
    exit_signal = models.IntegerField(null=True, blank=True)
    end_reason = models.TextField(blank=True)
    is_abandoned = models.BooleanField(
        default=False, help_text="Another host ended this row; its own host must end the agent."
    )
    is_frozen = models.BooleanField(
        default=False, help_text="Its row has ended, but it waits in a paused VM."
    )
    vm_paused_at = models.DateTimeField(
        null=True, blank=True, help_text="When its VM was paused; empty while that is under way."
    )
    is_data_short = models.BooleanField(
        default=False,
        db_default=False,
        editable=False,
        help_text="The data of its tool calls was shortened.",
    )
    stderr = models.TextField(blank=True, help_text="Its last lines.")
    # How often another follower has taken it over.
    generation = models.PositiveIntegerField(default=0)
    # Of a start on a VM: name, at, seconds, and note or problem of each step.
    steps = models.JSONField(default=list, blank=True)
    # Committed offset in the journal, and the follower's state at that point.
    offset = models.BigIntegerField(default=0)
    state = models.JSONField(default=dict)

    STEP_FIELDS = ("lieutenant", "steps", "ready_at", "started_at")

    objects = ProcessQuerySet.as_manager()

    class Meta:
        ordering = ["-started_at", "-id"]
        verbose_name_plural = "processes"
        constraints = [
            models.UniqueConstraint(
                fields=["lieutenant"],
                condition=Q(ended_at__isnull=True),
                name="one_live_process_a_lieutenant",
            )
        ]
        indexes = [
            models.Index(
                fields=["data_folder"], condition=Q(is_abandoned=True), name="process_abandoned"
            ),
            models.Index(fields=["started_at", "id"], name="process_by_start"),
            models.Index(
                fields=["ended_at"],
                condition=Q(is_data_short=False),
                name="process_with_long_data",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.lieutenant.name} pid {self.handle.get('agent_pid', '?')}"

    def start_steps(self) -> list[dict[str, Any]]:
        """Return the steps of a start on a VM, with that of the agent's first reply."""
        if self.ready_at is None or not self.steps:
            return list(self.steps)
        last = self.steps[-1]
        began = datetime.fromisoformat(last["at"]) + timedelta(seconds=last.get("seconds", 0.0))
        waited = round(max(0.0, (self.ready_at - began).total_seconds()), 3)
        return [*self.steps, {"name": "ready", "at": began.isoformat(), "seconds": waited}]
