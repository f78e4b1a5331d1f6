"""The order of siblings in the tree, `?sort=`."""

from __future__ import annotations

from django.db.models import OuterRef, QuerySet, Subquery
from django.http import QueryDict

from reef_site.common.lists.sorting import Column, Sorting
from registry.models import VM
from vmtree.models import Node

Nodes = QuerySet[Node]
DEFAULT = "age"


def _with_vm(column: str, nodes: Nodes) -> Nodes:
    vms = VM.objects.filter(pk=OuterRef("vm_id"))
    return nodes.annotate(**{column: Subquery(vms.values(column)[:1])})


COLUMNS = (
    Column("age", "Age", ("created_at",)),
    Column("name", "Name", ("name",)),
    # The longest overdue first; of those that are not running no heartbeat is expected.
    Column(
        "state",
        "State",
        ("late_after",),
        nullable=True,
        annotate=lambda nodes: _with_vm("late_after", nodes),
    ),
    Column(
        "seen",
        "Last heartbeat",
        ("last_seen",),
        is_descending_first=True,
        nullable=True,
        annotate=lambda nodes: _with_vm("last_seen", nodes),
    ),
)
BY_AGE = Sorting(COLUMNS, COLUMNS[0], is_descending=False)


def order_of(values: QueryDict) -> Sorting:
    """Return the order that a query asks for."""
    return Sorting.of(values, COLUMNS, DEFAULT)
