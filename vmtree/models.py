"""Nodes of the tree with their DNA, revisions and tokens; a removed VM keeps its node."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Self

from django.db import models
from django.db.models import F, Q

from reef_site.common import clock
from vmtree import names as vm_names
from vmtree.queries.recursion import Links
from vmtree.snapshot_models import Snapshot as Snapshot
from vmtree.token_models import OperatorToken as OperatorToken


class CompactEncoder(json.JSONEncoder):
    """Writes JSON without blanks, so that stored text can be sent as it is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "ensure_ascii": False, "separators": (",", ":")})


class Category(models.TextChoices):
    """The kind of a VM within the fleet."""

    LIEUTENANT = "lieutenant", "lieutenant"
    SWARM_VM = "swarm_vm", "swarm VM"
    AGENT_VM = "agent_vm", "agent VM"
    INFRA_VM = "infra_vm", "infrastructure"


class NodeQuerySet(models.QuerySet["Node"]):
    def active(self) -> Self:
        """Return nodes that are not removed."""
        return self.filter(removed_at__isnull=True)

    def roots(self) -> Self:
        """Return nodes without a parent."""
        return self.filter(parent__isnull=True)

    def with_trait(self, kind: str, name: str) -> Self:
        """Return nodes with exactly this organ or capability."""
        return self.filter(pk__in=Trait.objects.filter(kind=kind, name=name).values("node"))

    def count_by_category(self) -> dict[str, int]:
        """Return the number of nodes by category, without empty categories."""
        rows = self.order_by("category").values_list("category")
        return dict(rows.annotate(count=models.Count("pk")))


class Node(models.Model):
    """One VM's place in the tree. Removal only marks the row: an id is never reused."""

    vm_id = models.CharField("VM id", max_length=255, unique=True)
    name = models.CharField(max_length=255, blank=True)
    category = models.CharField(max_length=20, choices=Category.choices)
    parent = models.ForeignKey(
        # `node_children` is its index.
        "self",
        models.PROTECT,
        null=True,
        blank=True,
        related_name="children",
        db_index=False,
    )
    # Two lists of text, `organs` and `capabilities`; `Trait` holds the same for searching.
    reef_config = models.JSONField("DNA", null=True, blank=True, encoder=CompactEncoder)
    created_at = models.DateTimeField(default=clock.now)
    updated_at = models.DateTimeField(default=clock.now, db_index=True)
    removed_at = models.DateTimeField(null=True, blank=True)
    destroyed_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Its lieutenant was destroyed; the node stays for those below it.",
    )

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ["created_at", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(parent__isnull=True) | ~Q(parent=F("id")),
                name="node_is_not_its_own_parent",
            ),
            models.CheckConstraint(
                condition=Q(category__in=Category.values), name="node_category_is_known"
            ),
        ]
        indexes = [
            models.Index(fields=["created_at", "id"], name="node_by_age"),
            models.Index(fields=["removed_at", "category", "created_at"], name="node_by_category"),
            models.Index(fields=["parent", "removed_at", "created_at"], name="node_children"),
        ]

    def __str__(self) -> str:
        """Return name and id, with marks for invisible characters."""
        return vm_names.marked(f"{self.name} ({self.vm_id})" if self.name else self.vm_id)

    @property
    def parent_vm_id(self) -> str | None:
        """Return the id of the parent; None for a root."""
        return self.parent.vm_id if self.parent else None

    @property
    def organs(self) -> list[str]:
        """Return the VM's service modules."""
        return list((self.reef_config or {}).get("organs", []))

    @property
    def capabilities(self) -> list[str]:
        """Return the VM's extensions."""
        return list((self.reef_config or {}).get("capabilities", []))


LINKS = Links(table="vmtree_node", key="id", parent="parent_id", living="removed_at IS NULL")


class Trait(models.Model):
    """One organ or capability of a node, indexed for search."""

    class Kind(models.TextChoices):
        ORGAN = "organ", "organ"
        CAPABILITY = "capability", "capability"

    node = models.ForeignKey(Node, models.CASCADE, related_name="traits")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    name = models.CharField(max_length=200)
    position = models.PositiveIntegerField()

    class Meta:
        ordering = ["node", "kind", "position"]
        constraints = [
            models.UniqueConstraint(
                fields=["node", "kind", "position"], name="one_trait_a_position"
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["organ", "capability"]), name="trait_kind_is_known"
            ),
        ]
        indexes = [models.Index(fields=["kind", "name", "node"], name="trait_by_name")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class RevisionQuerySet(models.QuerySet["Revision"]):
    def newest_until(self, at: datetime) -> Self:
        """Return the last revision of each node as of that time."""
        ids = self.filter(at__lte=at).order_by().values("node")
        return self.filter(pk__in=ids.annotate(last=models.Max("pk")).values("last"))


class Revision(models.Model):
    """One change of a node, with the state after it."""

    class What(models.TextChoices):
        CREATED = "created", "created"
        # Created by its registration, below a VM of the tree.
        PLACED = "placed", "placed"
        CHANGED = "changed", "changed"
        REMOVED = "removed", "removed"
        RESTORED = "restored", "restored"
        # Kept by a restore of an older tree that does not have it, because it is alive.
        KEPT = "kept", "kept"

    node = models.ForeignKey(Node, models.CASCADE, related_name="revisions")
    at = models.DateTimeField(default=clock.now)
    actor = models.CharField(max_length=200)
    what = models.CharField(max_length=10, choices=What.choices)
    name = models.CharField(max_length=255, blank=True)
    category = models.CharField(max_length=20, choices=Category.choices)
    parent_vm_id = models.CharField(max_length=255, null=True, blank=True)  # noqa: DJ001
    reef_config = models.JSONField("DNA", null=True, blank=True, encoder=CompactEncoder)

    objects = RevisionQuerySet.as_manager()

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["node", "at"], name="revision_of_node"),
            models.Index(fields=["at"], name="revision_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.what} {self.at:%Y-%m-%d %H:%M:%S}"


class NodeTokenQuerySet(models.QuerySet["NodeToken"]):
    def good(self) -> Self:
        """Return tokens that authenticate an active node."""
        return self.filter(revoked_at__isnull=True, node__removed_at__isnull=True)


class NodeToken(models.Model):
    """A bearer token of a node; only its hash is stored."""

    node = models.ForeignKey(Node, models.CASCADE, related_name="tokens")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    made_at = models.DateTimeField(default=clock.now)
    made_by = models.CharField(max_length=200)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = NodeTokenQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"token of {self.node.vm_id}"
