"""VMs that reef makes for lieutenants."""

from __future__ import annotations

from typing import Self

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, Q

from bootloader.states import CleanupPolicy
from lieutenants.models.lieutenants import Lieutenant
from lieutenants.models.processes import Process
from lieutenants.states import Status


class MadeVMQuerySet(models.QuerySet["MadeVM"]):
    def here(self) -> Self:
        """VMs of lieutenants of this data folder."""
        return self.filter(lieutenant__data_folder=settings.DATA_FOLDER_ID)

    def present(self) -> Self:
        """VMs that reef has not finished with: they are made, run, or are to be deleted."""
        return self.filter(removed_at__isnull=True)

    def deleting(self) -> Self:
        """VMs that are being deleted: nothing new may run on them."""
        return self.present().filter(deleting_since__isnull=False)

    def of_failed_starts(self) -> Self:
        """VMs whose lieutenants have failed for good before their agents were ever ready."""
        was_ready = Process.objects.filter(
            lieutenant=OuterRef("lieutenant"), ready_at__isnull=False
        )
        lasting = Process.objects.lasting().filter(lieutenant=OuterRef("lieutenant"))
        failed = self.present().filter(
            lieutenant__status=Status.ERROR, lieutenant__restart_at__isnull=True
        )
        return failed.exclude(lieutenant__on_vm="").filter(~Exists(was_ready), ~Exists(lasting))


class MadeVM(models.Model):
    """The VM that reef makes for one lieutenant, and deletes with it."""

    lieutenant = models.OneToOneField(
        Lieutenant, models.CASCADE, primary_key=True, related_name="made_vm"
    )
    # The newest one: after a failure another VM may be made.
    provisioning = models.ForeignKey("bootloader.Provisioning", models.PROTECT, related_name="+")
    on_failure = models.CharField(
        max_length=10, choices=CleanupPolicy.choices, default=CleanupPolicy.DELETE
    )
    prepared_at = models.DateTimeField(
        null=True, blank=True, help_text="When agents that it has inherited were ended."
    )
    deleting_since = models.DateTimeField(
        null=True, blank=True, help_text="Since when it is being deleted."
    )
    removed_at = models.DateTimeField(null=True, blank=True)

    objects = MadeVMQuerySet.as_manager()

    class Meta:
        verbose_name = "VM of a lieutenant"
        verbose_name_plural = "VMs of lieutenants"
        constraints = [
            models.CheckConstraint(
                condition=Q(on_failure__in=CleanupPolicy.values), name="made_vm_policy_is_known"
            )
        ]

    def __str__(self) -> str:
        return f"VM of {self.lieutenant.name}"
