"""Models of the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NoReturn

from django.db import models


class AppendOnly(Exception):
    """Attempt to change or delete a single row of the audit log."""


class Action(models.TextChoices):
    """Actions that are recorded."""

    SIGN_IN = "sign-in", "signed in"
    SIGN_IN_FAILED = "sign-in-failed", "failed to sign in"
    SIGN_OUT = "sign-out", "signed out"
    PROOF = "proof", "confirmed who they are"
    CHANGE = "change", "changed"
    SECRET = "secret", "read a secret"
    COMMAND = "command", "ran a command"
    REFUSED = "refused", "was refused"


REFUSALS = (Action.REFUSED, Action.SIGN_IN_FAILED)


class ActorKind(models.TextChoices):
    """Kinds of callers."""

    ACCOUNT = "account", "account"
    ROOT = "root", "root token"
    NODE = "node", "node"
    TOKEN = "token", "operator token"
    NOBODY = "nobody", "not signed in"


class RecordQuerySet(models.QuerySet["Record"]):
    """Queries of the audit log."""

    def refusals(self) -> RecordQuerySet:
        """Return the records of refused actions."""
        return self.filter(action__in=REFUSALS)

    def between(self, since: datetime | None, until: datetime | None) -> RecordQuerySet:
        """Return the records of this period; None means no limit."""
        rows = self.filter(last_at__gte=since) if since else self
        return rows.filter(at__lte=until) if until else rows


class Record(models.Model):
    """One action. Equal refusals within a minute are one row with a count."""

    at = models.DateTimeField(db_index=True)
    last_at = models.DateTimeField(db_index=True)
    count = models.PositiveIntegerField(default=1)
    action = models.CharField(max_length=20, choices=Action.choices)
    actor = models.CharField(max_length=200)
    actor_kind = models.CharField(max_length=10, choices=ActorKind.choices)
    address = models.CharField(max_length=45, blank=True)
    method = models.CharField(max_length=10, blank=True)
    route = models.CharField(max_length=200, blank=True)
    target = models.CharField(max_length=300, blank=True)
    # The refused action of `vmtree.permissions`, such as `read-transcript`; `reason` has the rule.
    permission = models.CharField(max_length=30, blank=True)
    status = models.PositiveSmallIntegerField(default=0)
    reason = models.CharField(max_length=300, blank=True)

    objects = RecordQuerySet.as_manager()

    class Meta:
        verbose_name = "audit record"
        ordering = ("-id",)
        indexes = (
            models.Index(fields=["actor", "-id"], name="audit_record_actor"),
            models.Index(fields=["address", "-id"], name="audit_record_address"),
            models.Index(fields=["action", "-id"], name="audit_record_action"),
        )

    def __str__(self) -> str:
        return f"{self.actor} {self.get_action_display()} {self.target}".strip()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert the row. Raises AppendOnly for a row that exists."""
        if self.pk is not None and not self._state.adding:
            raise AppendOnly
        super().save(*args, **kwargs)

    def delete(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Raise AppendOnly; only `retention` deletes rows."""
        raise AppendOnly

    @property
    def is_refusal(self) -> bool:
        """Return whether the action was refused."""
        return self.action in REFUSALS

    @property
    def command_id(self) -> str:
        """Return the id of the command on a machine that this is about; empty for other actions."""
        return self.target.rpartition(" ")[2] if self.action == Action.COMMAND else ""
