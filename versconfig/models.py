"""Stored settings, one row for each key and scope, and all their versions."""

from __future__ import annotations

from typing import Self

from django.db import models
from django.db.models import Q

from reef_site.common import clock
from versconfig import vault
from vmtree.models import Node


class Scope(models.TextChoices):
    """The part of the fleet that a value applies to; the nearest wins: lieutenant, VM, subtree,
    fleet.

    At a lieutenant's node, `vm` applies if `lieutenant` has no value. At a VM's node there is no
    `lieutenant`.
    """

    FLEET = "fleet", "the fleet"
    SUBTREE = "subtree", "a VM and all below it"
    VM = "vm", "one VM"
    LIEUTENANT = "lieutenant", "one lieutenant"


class What(models.TextChoices):
    """The kind of change that a version records."""

    SET = "set", "set"
    REMOVED = "removed", "removed"
    IMPORTED = "imported", "imported"
    UNDONE = "undone", "undone"
    PUT_BACK = "put_back", "put back"


class StoredValue(models.Model):
    """A value of a key for a scope: in clear text, or encrypted if it is secret."""

    key = models.CharField(max_length=80)
    scope = models.CharField(max_length=10, choices=Scope.choices)
    node = models.ForeignKey(Node, models.PROTECT, null=True, blank=True, related_name="+")
    clear = models.TextField("value", blank=True)
    sealed = models.TextField(blank=True, editable=False)
    at = models.DateTimeField(default=clock.now)
    actor = models.CharField(max_length=200)
    # The node whose token stored it, or of the subtree of the operator token that did; null for
    # the root token, operators and reef itself.
    stored_by = models.ForeignKey(
        Node, models.PROTECT, null=True, blank=True, related_name="+", editable=False
    )

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.key} for {self.target}"

    @property
    def target(self) -> str:
        """Return the scope in words."""
        if self.node is None:
            return "the fleet"
        name = self.node.name or self.node.vm_id
        kinds = {Scope.SUBTREE: "subtree of", Scope.VM: "VM", Scope.LIEUTENANT: "lieutenant"}
        return f"{kinds[Scope(self.scope)]} {name}"

    @property
    def vm_id(self) -> str:
        """Return the id of the scope's node; empty for the fleet."""
        return self.node.vm_id if self.node else ""

    def text(self) -> str:
        """Return the value in clear text; empty if there is none. Raises Unreadable."""
        return vault.unseal(self.key, self.sealed) if self.sealed else self.clear

    def set_text(self, text: str, *, secret: bool) -> None:
        """Take this value. Only inside a transaction that shares `DatabaseLock.VAULT_KEYS`."""
        self.sealed = vault.seal(self.key, text) if secret and text else ""
        self.clear = "" if secret else text


class SettingQuerySet(models.QuerySet["Setting"]):
    def for_scope(self, key: str, scope: str, node: Node | None) -> Self:
        """Return the row of a key and a scope, if it exists."""
        return self.filter(key=key, scope=scope, node=node)


class Setting(StoredValue):
    """The current value of a key for a scope."""

    # The version that stored this value.
    version = models.ForeignKey("Version", models.PROTECT, related_name="+", editable=False)

    objects = SettingQuerySet.as_manager()

    class Meta:
        ordering = ["key", "scope", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["key"], condition=Q(node__isnull=True), name="one_setting_a_fleet"
            ),
            models.UniqueConstraint(
                fields=["key", "scope", "node"],
                condition=Q(node__isnull=False),
                name="one_setting_a_scope",
            ),
            models.CheckConstraint(
                condition=Q(scope="fleet", node__isnull=True)
                | Q(scope__in=["subtree", "vm", "lieutenant"], node__isnull=False),
                name="setting_scope_fits_node",
            ),
            models.CheckConstraint(
                condition=Q(clear="") ^ Q(sealed=""), name="setting_is_clear_or_sealed"
            ),
        ]
        indexes = [models.Index(fields=["node", "key"], name="setting_of_node")]


class Version(StoredValue):
    """One change of a setting, with the value after it; empty if it was removed."""

    what = models.CharField(max_length=10, choices=What.choices)
    # The previous version of the same key and scope.
    previous = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="+", editable=False
    )

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(clear="") | Q(sealed=""), name="version_is_clear_or_sealed"
            ),
            models.CheckConstraint(condition=Q(what__in=What.values), name="version_what_is_known"),
        ]
        indexes = [models.Index(fields=["key", "scope", "node"], name="version_of_setting")]

    @property
    def is_empty(self) -> bool:
        """Return whether nothing was stored after it."""
        return not self.clear and not self.sealed


def has_sealed() -> bool:
    """Return whether any secret is or was stored."""
    return Version.objects.exclude(sealed="").exists()
