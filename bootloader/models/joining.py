"""Join tokens, rejected joins, and boot reports."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from django.db import models
from django.db.models import F, Q

from reef_site.common import clock
from registry.models import Role
from vmtree import dna
from vmtree.models import Category, CompactEncoder


class JoinTokenQuerySet(models.QuerySet["JoinToken"]):
    def open(self, at: datetime) -> Self:
        """Return tokens that are not used, voided or expired at this time."""
        return self.filter(used_at__isnull=True, voided_at__isnull=True, expires_at__gt=at)


class JoinToken(models.Model):
    """Authorizes join, report and dist requests of one future VM. Only its hash is stored."""

    digest = models.CharField(max_length=64, unique=True, editable=False)
    vm_id = models.CharField("VM id", max_length=255)
    # Values for its node and its registry row.
    name = models.CharField(max_length=255, blank=True)
    profile = models.CharField(max_length=80)
    category = models.CharField(max_length=20, choices=Category.choices)
    role = models.CharField(max_length=20, choices=Role.choices)
    parent_vm_id = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001
    reef_config = models.JSONField("DNA", default=dna.empty, blank=True, encoder=CompactEncoder)
    address = models.CharField(max_length=1000, blank=True, help_text="Empty: as the VM says.")
    made_at = models.DateTimeField(default=clock.now)
    made_by = models.CharField(max_length=200)
    expires_at = models.DateTimeField()
    voided_at = models.DateTimeField(null=True, blank=True)
    used_at = models.DateTimeField(null=True, blank=True)
    used_by = models.CharField(max_length=255, blank=True, help_text="Host name and address.")
    # Hashes of the nonce, by which a repeated join is recognized, and of the issued node token.
    nonce_digest = models.CharField(max_length=64, blank=True, editable=False)
    given_digest = models.CharField(max_length=64, blank=True, editable=False)

    objects = JoinTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(expires_at__gt=F("made_at")), name="join_token_expires_later"
            ),
            models.CheckConstraint(
                condition=Q(role__in=Role.values), name="join_token_role_is_known"
            ),
            models.CheckConstraint(
                condition=Q(category__in=Category.values), name="join_token_category_is_known"
            ),
        ]
        indexes = [
            models.Index(fields=["vm_id", "id"], name="join_token_of_vm"),
            models.Index(fields=["expires_at"], name="join_token_by_end"),
        ]

    def __str__(self) -> str:
        return f"join token of {self.name or self.vm_id}"

    def state(self, at: datetime) -> str:
        """Return the state for pages: open, used, voided or expired."""
        if self.used_at:
            return "used"
        if self.voided_at:
            return "voided"
        return "open" if self.expires_at > at else "expired"


class RefusalReason(models.TextChoices):
    """The reason for a rejection."""

    UNKNOWN = "unknown", "unknown token"
    EXPIRED = "expired", "expired token"
    USED = "used", "used token"
    VOIDED = "voided", "voided token"
    FOREIGN = "foreign", "token of another VM"
    CLASH = "clash", "does not fit the tree"


class JoinRefusal(models.Model):
    """A rejected join attempt; repeated attempts increase `count`."""

    # Null if the token is unknown.
    token = models.ForeignKey(
        JoinToken, models.CASCADE, null=True, blank=True, related_name="refusals"
    )
    why = models.CharField(max_length=10, choices=RefusalReason.choices)
    text = models.CharField(max_length=500, help_text="The message sent to the VM.")
    remote = models.CharField(max_length=255, blank=True, help_text="Address of the client.")
    count = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField(default=clock.now)
    last_at = models.DateTimeField(default=clock.now)

    class Meta:
        ordering = ["-last_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["token", "why", "remote"], name="one_refusal_a_reason"),
            models.UniqueConstraint(
                fields=["why", "remote"],
                condition=Q(token__isnull=True),
                name="one_refusal_of_nobody_a_reason",
            ),
            models.CheckConstraint(
                condition=Q(why__in=RefusalReason.values),
                name="refusal_reason_is_known",
            ),
        ]
        indexes = [models.Index(fields=["last_at"], name="refusal_by_time")]

    def __str__(self) -> str:
        return self.text


class ReportStatus(models.TextChoices):
    """The status of a boot script's step, as named in the HTTP API."""

    STARTED = "started", "started"
    OK = "ok", "ok"
    FAILED = "failed", "failed"
    SKIPPED = "skipped", "skipped"


class BootReportQuerySet(models.QuerySet["BootReport"]):
    def newest_run(self, vm_id: str) -> Self:
        """Return the steps of the VM's latest boot, in the order in which they began."""
        last = self.filter(vm_id=vm_id).order_by("-began_at", "-id").first()
        run = last.run if last else ""
        return self.filter(vm_id=vm_id, run=run).order_by("began_at", "id")


class BootReport(models.Model):
    """The latest report about one step of one run of a VM's boot script."""

    vm_id = models.CharField("VM id", max_length=255)
    run = models.CharField(max_length=64)
    step = models.CharField(max_length=40)
    status = models.CharField(max_length=10, choices=ReportStatus.choices)
    duration_ms = models.PositiveBigIntegerField(null=True, blank=True)
    exit_status = models.IntegerField(null=True, blank=True)
    output = models.TextField(blank=True, help_text="Its end, at most 8 kB.")
    began_at = models.DateTimeField(default=clock.now)
    at = models.DateTimeField("reported at", default=clock.now)

    objects = BootReportQuerySet.as_manager()

    class Meta:
        ordering = ["vm_id", "began_at", "id"]
        constraints = [
            models.UniqueConstraint(fields=["vm_id", "run", "step"], name="one_report_a_step"),
            models.CheckConstraint(
                condition=Q(status__in=ReportStatus.values), name="report_status_is_known"
            ),
        ]
        indexes = [
            models.Index(fields=["vm_id", "began_at"], name="report_of_vm"),
            models.Index(fields=["at"], name="report_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.step} {self.status} on {self.vm_id}"

    @property
    def seconds(self) -> float | None:
        """Return how long the step took; None if it has not ended, or if that is not known."""
        is_over = self.status != ReportStatus.STARTED and self.duration_ms is not None
        return (self.duration_ms or 0) / 1000 if is_over else None
