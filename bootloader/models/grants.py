"""Grants of nodes: what they may create with their own tokens, and what that may cost."""

from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from vmtree.models import Node


class ProvisionGrant(models.Model):
    """Grant of a node: how many VMs and lieutenants its token may still create, and how deep.

    A node without a row may provision no VM, and create any number of lieutenants if it may start
    processes on this host at all. What is created is deducted, and not returned when it is
    destroyed. `lieutenants` and `lieutenant_levels` limit the node and all its descendants; so does
    the budget, `dollars` (see `bootloader.grants.budgets`).
    """

    node = models.OneToOneField(
        Node, models.CASCADE, primary_key=True, related_name="provision_grant"
    )
    vms = models.PositiveIntegerField("VMs left", help_text="How many more it may have made.")
    profiles = models.JSONField(
        default=list, blank=True, help_text="Types of profiles; an empty list allows all."
    )
    levels = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1)],
        help_text="How many levels below the node VMs may be placed; 1 is directly below it.",
    )

    lieutenants = models.PositiveIntegerField(
        "lieutenants left",
        null=True,
        blank=True,
        help_text="How many more it and the nodes below it may create; empty for no limit.",
    )
    lieutenant_levels = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="How many levels below the node lieutenants may be; empty for no limit.",
    )

    dollars = models.DecimalField(
        "budget in US dollars",
        max_digits=15,
        decimal_places=6,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="What lieutenants of the node and below it may cost; empty for no limit.",
    )
    dollars_since = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Usage counts from this time."
    )
    used_up_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="When `grant.used-up` was recorded."
    )

    class Meta:
        verbose_name = "grant"
        indexes = [
            models.Index(
                fields=["used_up_at"],
                condition=Q(dollars__isnull=False),
                name="grant_with_budget",
            )
        ]
        constraints = [
            models.CheckConstraint(condition=Q(vms__gte=0), name="grant_is_not_overdrawn"),
            models.CheckConstraint(condition=Q(levels__gte=1), name="grant_has_a_level"),
            models.CheckConstraint(
                condition=Q(lieutenants__isnull=True) | Q(lieutenants__gte=0),
                name="grant_of_lieutenants_is_not_overdrawn",
            ),
            models.CheckConstraint(
                condition=Q(lieutenant_levels__isnull=True) | Q(lieutenant_levels__gte=1),
                name="grant_of_lieutenants_has_a_level",
            ),
            models.CheckConstraint(
                condition=Q(dollars__isnull=True, dollars_since__isnull=True)
                | Q(dollars__gte=0, dollars_since__isnull=False),
                name="budget_has_a_beginning",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.node.vm_id}: {self.vms} VMs left"

    @property
    def dollars_number(self) -> float | None:
        """The budget as a JSON number."""
        return None if self.dollars is None else float(self.dollars)

    @property
    def limits_lieutenants(self) -> bool:
        """Return whether it limits how many lieutenants there are below its node, or how deep."""
        return self.lieutenants is not None or self.lieutenant_levels is not None
