"""Agents that run on a host of reef or on a machine without an open process row."""

from __future__ import annotations

from datetime import timedelta
from typing import Self

from django.db import models
from django.utils import timezone

# A request for an agent on a machine that nobody has carried out by then was lost.
REQUEST_LIMIT = timedelta(seconds=90)
LOST = "No worker has carried out the request in time."


class Request(models.TextChoices):
    """Requests that an operator can make."""

    TAKE_UP = "take-up", "take up"
    END = "end", "end"


class UnknownAgentQuerySet(models.QuerySet["UnknownAgent"]):
    def on_machines(self) -> Self:
        """Agents on machines at the end of an SSH connection."""
        return self.filter(data_folder="")

    def drop_lost_requests(self) -> None:
        """Let requests be made again that no worker has carried out."""
        lost = self.on_machines().filter(requested_at__lt=timezone.now() - REQUEST_LIMIT)
        lost.update(request="", requested_at=None, problem=LOST)


class UnknownAgent(models.Model):
    """An agent that runs without being followed.

    On a host of reef it is found by the host's follower, on a machine by a discovery. The row is
    deleted when the agent has ended or is followed again.
    """

    run = models.CharField(
        primary_key=True,
        max_length=64,
        help_text="The name of its folder, followed by that of its machine in a shortened form.",
    )
    data_folder = models.CharField(
        max_length=64,
        blank=True,
        db_index=True,
        help_text="Where its run lies; empty on a machine.",
    )
    # The machine: a registered SSH host, by its primary key, or a provider's VM.
    ssh_host = models.CharField("SSH host", max_length=40, blank=True)
    vm_id = models.CharField("VM id", max_length=255, blank=True)
    host = models.CharField(max_length=255, help_text="Name of the host or machine.")
    lieutenant_id = models.CharField(max_length=64)
    name = models.CharField(max_length=64, blank=True, help_text="Its lieutenant, if one is known.")
    directory = models.CharField(max_length=1024)
    handle = models.JSONField(default=dict)
    why = models.TextField(help_text="Why nobody follows it.")
    can_be_taken_up = models.BooleanField(default=False)
    found_at = models.DateTimeField(default=timezone.now)
    request = models.CharField(max_length=10, choices=Request.choices, blank=True)
    requested_at = models.DateTimeField(null=True, blank=True)
    requested_by = models.CharField(max_length=200, blank=True)
    problem = models.TextField(blank=True, help_text="Why the newest request came to nothing.")

    objects = UnknownAgentQuerySet.as_manager()

    class Meta:
        app_label = "lieutenants"
        ordering = ["-found_at", "run"]

    def __str__(self) -> str:
        return f"{self.name or self.lieutenant_id} ({self.run})"

    @property
    def is_on_machine(self) -> bool:
        """Return whether it runs on a machine at the end of an SSH connection."""
        return not self.data_folder

    @property
    def is_older(self) -> bool:
        """Return whether an older server has started it, and no keeper attends to it."""
        return "keeper_pid" not in self.handle
