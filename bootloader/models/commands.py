"""Shell commands that people run on machines, with what they printed: a part of the audit trail."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NoReturn, Self

from django.db import models, transaction
from django.db.models import Q

from bootloader.models.hosts import SshHost
from bootloader.models.machines import Machine
from bootloader.states import COMMAND_MOVES, OPEN_COMMAND_STATES, CommandState
from reef_site.common import clock
from reef_site.common.errors import IllegalMove, LostRace
from reef_site.common.eventlog import recording
from reef_site.common.ids import new_ulid
from reef_site.common.retention import delete_in_batches


class AppendOnly(Exception):
    """Attempt to delete a single command; only `MachineCommandQuerySet.prune` deletes."""


class MachineCommandQuerySet(models.QuerySet["MachineCommand"]):
    def open(self) -> Self:
        """Return commands that have not ended."""
        return self.filter(state__in=OPEN_COMMAND_STATES)

    def overdue(self) -> Self:
        """Return commands whose worker should have reported their end by now."""
        return self.open().filter(overdue_at__lt=clock.now())

    def on(self, machine: Machine | SshHost) -> Self:
        """Return the commands on a machine."""
        if isinstance(machine, SshHost):
            return self.filter(ssh_host=machine)
        return self.filter(machine=machine)

    def prune(self, days: int) -> int:
        """Delete ended commands that are older than the audit log may be; return how many."""
        oldest = clock.now() - timedelta(days=days)
        old = self.filter(asked_at__lt=oldest).exclude(state__in=OPEN_COMMAND_STATES)
        return delete_in_batches(old)


class MachineCommand(models.Model):
    """One command on a machine: who ran it, its exit status and its output.

    Secrets that reef knows are masked in `command`, `output` and `errors`. `sealed` is the command
    as it was given, encrypted, and emptied when a worker takes it.
    """

    id = models.CharField(primary_key=True, max_length=26, default=new_ulid, editable=False)
    # One of the two is set until its row is deleted; `place` is its name.
    machine = models.ForeignKey(Machine, models.SET_NULL, null=True, blank=True)
    ssh_host = models.ForeignKey(
        SshHost, models.SET_NULL, null=True, blank=True, verbose_name="SSH host"
    )
    vm_id = models.CharField("VM id", max_length=255, blank=True)
    place = models.CharField("machine's name", max_length=300)
    actor = models.CharField(max_length=200)
    command = models.TextField()
    sealed = models.TextField(blank=True, editable=False)
    limit_seconds = models.PositiveIntegerField()
    state = models.CharField(
        max_length=10, choices=CommandState.choices, default=CommandState.WAITING
    )
    exit_status = models.SmallIntegerField(null=True, blank=True)
    output = models.TextField(blank=True)
    errors = models.TextField(blank=True, help_text="What it printed on stderr.")
    # In characters, also of what is left out in the middle.
    output_size = models.BigIntegerField(default=0)
    errors_size = models.BigIntegerField(default=0)
    note = models.CharField(max_length=1000, blank=True, help_text="How it ended, in words.")
    cancelled_by = models.CharField(max_length=200, blank=True)
    asked_at = models.DateTimeField(default=clock.now)
    began_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    overdue_at = models.DateTimeField(help_text="A worker has reported its end by then.")

    objects = MachineCommandQuerySet.as_manager()

    class Meta:
        verbose_name = "command on a machine"
        verbose_name_plural = "commands on machines"
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=CommandState.values), name="command_state_is_known"
            )
        ]
        indexes = [
            models.Index(fields=["machine", "-id"], name="command_of_machine"),
            models.Index(fields=["ssh_host", "-id"], name="command_of_host"),
            models.Index(fields=["state", "overdue_at"], name="command_overdue"),
        ]

    def __str__(self) -> str:
        return f"command {self.pk} on {self.place}"

    def delete(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Raise AppendOnly."""
        raise AppendOnly

    @property
    def is_open(self) -> bool:
        """Return whether it has not ended."""
        return self.state in OPEN_COMMAND_STATES

    @property
    def is_good(self) -> bool:
        """Return whether it ended by itself with status 0."""
        return self.state == CommandState.DONE and self.exit_status == 0

    @property
    def exit_text(self) -> str:
        """Return the exit status as text; empty if there is none."""
        return "" if self.exit_status is None else str(self.exit_status)

    @property
    def seconds(self) -> float | None:
        """Return how long it ran; None if it did not run, or still does."""
        if self.began_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.began_at).total_seconds()

    @transaction.atomic
    def move(self, to: CommandState, **also: Any) -> None:
        """Perform a transition, and record the end in the event log.

        Raise IllegalMove, LostRace.
        """
        old = CommandState(self.state)
        if to not in COMMAND_MOVES[old]:
            raise IllegalMove(f"the command has ended: {old.label}")
        fields: dict[str, Any] = {"state": to, **also}
        if to not in OPEN_COMMAND_STATES:
            fields |= {"ended_at": clock.now(), "sealed": ""}
        # The WHERE clause is the lock: only one of two movers finds the row.
        if not MachineCommand.objects.filter(pk=self.pk, state=old).update(**fields):
            raise LostRace(f"{self} is no longer {old.label}")
        for name, value in fields.items():
            setattr(self, name, value)
        if not self.is_open:
            self._record_end()

    def _record_end(self) -> None:
        detail = {
            "id": self.pk,
            "machine": self.place,
            "state": self.state,
            "exitStatus": self.exit_status,
            "seconds": self.seconds,
        }
        subject = self.vm_id or self.place
        recording.record("vm.command", subject, actor=self.actor, detail=detail, vm_id=self.vm_id)
