"""Who would be touched by a verb over a subtree, in which order, and why some are left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lieutenants.operations import handlers
from lieutenants.operations.handlers import Outlook
from lieutenants.operations.models import Verb
from reef_site.common.batches import BATCH_SIZE, batched
from reef_site.common.errors import BadInput
from registry.models import VM
from vmtree.lineage import keys_below
from vmtree.models import LINKS, Node

MOST_VMS = 20_000
NO_PLACE = "is registered as a child, but has no place in the tree"


@dataclass(frozen=True)
class Line:
    """One VM of a plan. `above` is its parent's id if that is in the plan, too, else empty."""

    vm_id: str
    name: str
    category: str
    above: str
    handler: str
    does: str
    left_out: str = ""


@dataclass(frozen=True)
class Plan:
    """Lines in the order in which they are done."""

    verb: Verb
    vm_id: str
    name: str
    lines: list[Line]

    @property
    def acting(self) -> list[Line]:
        """Those to which something is done."""
        return [line for line in self.lines if not line.left_out]

    @property
    def left_out(self) -> list[Line]:
        """Those that stay as they are."""
        return [line for line in self.lines if line.left_out]

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why lines are left out, and how many for that reason, most first."""
        return Counter(line.left_out for line in self.left_out).most_common()


def plan_of(verb: Verb, top: Node) -> Plan:
    """The plan as of now; changes nothing. Raises BadInput for more than MOST_VMS."""
    nodes = _nodes_below(top)
    outlooks = handlers.outlooks(verb, [node.vm_id for node in nodes])
    ids = {node.pk: node.vm_id for node in nodes}
    lines = [
        _line(node, ids.get(node.parent_id or 0, ""), *_named(outlooks[node.vm_id]))
        for node in nodes
    ]
    # Breadth first, so that parents come before their children; the other way round, after them.
    if verb.leaves_first:
        lines.reverse()
    return Plan(verb, top.vm_id, top.name, [*lines, *_without_place(verb, list(ids.values()))])


def _nodes_below(top: Node) -> list[Node]:
    keys = keys_below(LINKS, top.pk)
    if len(keys) > MOST_VMS:
        raise BadInput(f"{len(keys)} VMs are more than one job takes ({MOST_VMS}): take parts")
    rows: dict[int, Node] = {}
    for some in batched(keys):
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
    """Registered children of these that the tree does not have: told, never touched."""
    found: dict[str, VM] = {}
    for some in batched(vm_ids):
        children = VM.objects.filter(parent_vm_id__in=some).order_by("id")[:BATCH_SIZE]
        found |= {vm.pk: vm for vm in children}
    for some in batched(list(found)):
        for known in Node.objects.filter(vm_id__in=some).values_list("vm_id", flat=True):
            del found[known]
    return [
        Line(vm.pk, vm.name, "", "", "registry", f"{verb} it", NO_PLACE) for vm in found.values()
    ]
