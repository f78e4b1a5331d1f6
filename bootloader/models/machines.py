"""Machines of providers, and findings about them."""

from __future__ import annotations

from typing import Self

from django.db import models
from django.db.models import Q

from bootloader.states import FindingKind, FindingState, Proposal
from reef_site.common import clock


class MachineQuerySet(models.QuerySet["Machine"]):
    def active(self) -> Self:
        """Return machines that are not known to be gone."""
        return self.filter(gone_at__isnull=True)

    def of(self, provider: str) -> Self:
        """Return machines of one provider."""
        return self.filter(provider=provider)


class Machine(models.Model):
    """A VM as reported by its provider. `vm_id` is its node in the tree, empty if it has none."""

    provider = models.CharField(max_length=40)
    machine_id = models.CharField("machine id", max_length=255)
    name = models.CharField(max_length=255, blank=True)
    vm_id = models.CharField("VM id", max_length=255, blank=True)
    state = models.CharField(max_length=20, blank=True, help_text="In the provider's words.")
    address = models.CharField(max_length=255, blank=True)
    # The first key shown, as in known_hosts without the name.
    host_key = models.CharField(max_length=2000, blank=True)
    mine = models.BooleanField(default=True, help_text="Made with our key, as far as is known.")
    created_at = models.DateTimeField(null=True, blank=True)
    known_since = models.DateTimeField(default=clock.now)
    seen_at = models.DateTimeField(default=clock.now, help_text="Last listed by its provider.")
    gone_at = models.DateTimeField(null=True, blank=True)
    note = models.CharField(max_length=300, blank=True, help_text="Why it is here, or is gone.")

    objects = MachineQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["provider", "machine_id"], name="one_machine_an_id"),
            models.UniqueConstraint(
                fields=["vm_id"],
                condition=Q(gone_at__isnull=True) & ~Q(vm_id=""),
                name="one_living_machine_a_vm",
            ),
        ]
        indexes = [models.Index(fields=["provider", "gone_at"], name="machine_of_provider")]

    def __str__(self) -> str:
        return f"{self.name or self.machine_id} ({self.provider})"

    @property
    def is_gone(self) -> bool:
        """Return whether it was deleted, or its provider no longer knows it."""
        return self.gone_at is not None


class FindingQuerySet(models.QuerySet["Finding"]):
    def open(self) -> Self:
        """Return undecided findings."""
        return self.filter(state=FindingState.OPEN)


class Finding(models.Model):
    """A difference between provider, tree and registry, with a proposed action."""

    kind = models.CharField(max_length=10, choices=FindingKind.choices)
    provider = models.CharField(max_length=40)
    machine_id = models.CharField("machine id", max_length=255)
    vm_id = models.CharField("VM id", max_length=255, blank=True)
    name = models.CharField(max_length=255, blank=True)
    text = models.CharField(max_length=500)
    proposal = models.CharField(max_length=10, choices=Proposal.choices)
    state = models.CharField(max_length=10, choices=FindingState.choices, default=FindingState.OPEN)
    found_at = models.DateTimeField(default=clock.now)
    seen_at = models.DateTimeField(default=clock.now)
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.CharField(max_length=200, blank=True)
    outcome = models.CharField(max_length=500, blank=True)

    objects = FindingQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "provider", "machine_id"],
                # A dismissed finding stays, so that it is not reported again while the difference
                # lasts.
                condition=Q(state__in=["open", "dismissed"]),
                name="one_finding_of_a_kind",
            ),
            models.CheckConstraint(
                condition=Q(state__in=FindingState.values), name="finding_state_is_known"
            ),
        ]
        indexes = [models.Index(fields=["state", "id"], name="finding_by_state")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.name or self.machine_id}"
