"""Operator tokens: bearer tokens that a person makes for scripts."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from django.db import models
from django.db.models import Q

from reef_site.common import clock

DIGEST_LENGTH = 64


class OperatorTokenQuerySet(models.QuerySet["OperatorToken"]):
    def good(self, now: datetime | None = None) -> Self:
        """Return tokens that are accepted: not revoked, not expired, their subtree not removed."""
        return self.filter(
            Q(expires_at__isnull=True) | Q(expires_at__gt=now or clock.now()),
            Q(subtree__isnull=True) | Q(subtree__removed_at__isnull=True),
            revoked_at__isnull=True,
        )


class OperatorToken(models.Model):
    """A bearer token for the API; only its hash is stored. A revoked one keeps its row."""

    class Scope(models.TextChoices):
        """Scopes of tokens; `vmtree.permissions` has the rights of each."""

        READ = "read", "Read"
        MESSAGES = "messages", "Read, send messages and answer questions"
        EVERYTHING = "everything", "Everything that an operator may do, except making tokens"

    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=DIGEST_LENGTH, unique=True, editable=False)
    scope = models.CharField(max_length=10, choices=Scope.choices)
    subtree = models.ForeignKey(
        "vmtree.Node", models.CASCADE, null=True, blank=True, related_name="operator_tokens"
    )
    made_at = models.DateTimeField(default=clock.now)
    made_by = models.CharField(max_length=200)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    revoked_by = models.CharField(max_length=200, blank=True)
    # Written at most once a minute.
    last_used_at = models.DateTimeField(null=True, blank=True)
    last_address = models.CharField(max_length=45, blank=True)

    objects = OperatorTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(scope__in=["read", "messages", "everything"]),
                name="operator_token_scope_is_known",
            ),
            # Rows name their maker: another token of that name would be taken for it.
            models.UniqueConstraint(fields=["name"], name="operator_token_names_are_unique"),
        ]

    def __str__(self) -> str:
        return f"token {self.name}"

    @property
    def state(self) -> str:
        """Return `revoked`, `expired` or `valid`."""
        if self.revoked_at or (self.subtree and self.subtree.removed_at):
            return "revoked"
        return "expired" if self.expires_at and self.expires_at <= clock.now() else "valid"
