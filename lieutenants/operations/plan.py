"""Plan of an operation: which VMs are touched, in which order, and why others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from lieutenants.operations import handlers
from lieutenants.operations.handlers import Outlook
from lieutenants.operations.models import Verb
from reef_site.common.errors import BadInput
from registry.models import VM
from vmtree.lineage import keys_below
from vmtree.models import LINKS, Node

MOST_VMS = 20_000
_AT_ONCE = 500
NO_PLACE = "is registered as a child, but has no place in the tree"


@dataclass(frozen=True)
class Line:
    """One VM of a plan. `above` is its parent's id if the parent is in the plan, else empty."""

    vm_id: str
    name: str
    category: str
    above: str
    handler: str
    does: str
    left_out: str = ""


@dataclass(frozen=True)
class Plan:
    """Lines in execution order."""

    verb: Verb
    vm_id: str
    name: str
    lines: list[Line]

    @property
    def acting(self) -> list[Line]:
        """Return the lines that change a VM."""
        return [line for line in self.lines if not line.left_out]

    @property
    def left_out(self) -> list[Line]:
        """Return the lines that are skipped."""
        return [line for line in self.lines if line.left_out]

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Return each reason for skipping with its number of VMs, most frequent first."""
        return Counter(line.left_out for line in self.left_out).most_common()


def plan_of(verb: Verb, top: Node) -> Plan:
    """Return the plan as of now; changes nothing. Raises BadInput for more than MOST_VMS."""
    nodes = _nodes_below(top)
    outlooks = handlers.outlooks(verb, [node.vm_id for node in nodes])
    ids = {node.pk: node.vm_id for node in nodes}
    lines = [
        _line(node, ids.get(node.parent_id or 0, ""), *_named(outlooks[node.vm_id]))
        for node in nodes
    ]
    # Nodes are in breadth-first order: parents before children, or the reverse.
    if verb.leaves_first:
        lines.reverse()
    return Plan(verb, top.vm_id, top.name, [*lines, *_without_place(verb, list(ids.values()))])


def _nodes_below(top: Node) -> list[Node]:
    keys = keys_below(LINKS, top.pk)
    if len(keys) > MOST_VMS:
        raise BadInput(f"{len(keys)} VMs are more than one job takes ({MOST_VMS}): take parts")
    rows: dict[int, Node] = {}
    for some in _chunks(keys):
        rows |= Node.objects.living().in_bulk(some)
    return [rows[key] for key in keys if key in rows]


def _line(node: Node, above: str, handler: str, outlook: Outlook) -> Line:
    return Line(
        vm_id=node.vm_id,
        name=node.name,
        category=node.category,
        above=above,
        handler=handler,
        does=outlook.does,
        left_out=outlook.left_out,
    )


def _named(found: tuple[handlers.Handler, Outlook]) -> tuple[str, Outlook]:
    handler, outlook = found
    return handler.name, outlook


def _without_place(verb: Verb, vm_ids: list[str]) -> list[Line]:
    """Return skipped lines for registered children of these VMs that are not in the tree."""
    found: dict[str, VM] = {}
    for some in _chunks(vm_ids):
        children = VM.objects.filter(parent_vm_id__in=some).order_by("id")[:_AT_ONCE]
        found |= {vm.pk: vm for vm in children}
    for some in _chunks(list(found)):
        for known in Node.objects.filter(vm_id__in=some).values_list("vm_id", flat=True):
            del found[known]
    return [
        Line(vm.pk, vm.name, "", "", "registry", f"{verb} it", NO_PLACE) for vm in found.values()
    ]


def _chunks(keys: list[int] | list[str]) -> Iterator[list[int] | list[str]]:
    for start in range(0, len(keys), _AT_ONCE):
        yield keys[start : start + _AT_ONCE]
