"""Provisioning grants of nodes."""

from __future__ import annotations

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from vmtree.models import Node


class ProvisionGrant(models.Model):
    """Grant of a node: number of VMs that its token may still provision, their profiles and depth.

    A node without a row may provision none. Each requested VM is deducted from `vms` and is not
    returned when the VM is destroyed.
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

    class Meta:
        verbose_name = "provisioning grant"
        constraints = [
            models.CheckConstraint(condition=Q(vms__gte=0), name="grant_is_not_overdrawn"),
            models.CheckConstraint(condition=Q(levels__gte=1), name="grant_has_a_level"),
        ]

    def __str__(self) -> str:
        return f"{self.node.vm_id}: {self.vms} VMs left"
